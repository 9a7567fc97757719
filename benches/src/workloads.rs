//! W1 to W6.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use durable::{Durable, ExecutionId, FunctionError, Isolation, Language, Workflow};

use crate::{
    measure::{Settings, all_rounded, emit, median, percentile, rounded},
    place::Place,
};

const SEQUENCE: &str = "
async def main():
    s = 0
    for i in range(n):
        s += await step(i)
    return s
await main()
";
pub(crate) const FAN: &str = "
import asyncio
async def main():
    rs = await asyncio.gather(step(0), step(1), step(2))
    return await step(rs[0])
await main()
";
const WIDE: &str = "
import asyncio
async def main():
    rs = await asyncio.gather(*[step(i) for i in range(n)])
    return sum(rs)
await main()
";
const ONE: &str = "await step(1)";
pub(crate) const SUSPENDED: &str = "
import asyncio
await asyncio.sleep(86400)
await step(1)
";

/// An open store in a directory of its own.
struct Bench {
    durable: Durable,
    place: Place,
}

impl Bench {
    fn open(settings: &Settings) -> Result<Self> {
        let place = Place::new(settings)?;
        let isolation = if settings.thread { Isolation::Thread } else { Isolation::Process };
        let durable = Durable::builder(&place.url())
            .isolation(isolation)
            .function("step", |(i,): (i64,)| async move { Ok::<_, FunctionError>(i + 1) })
            .function("agent:step", |(given,): (serde_json::Value,)| async move {
                let n = given["n"].as_i64().unwrap_or_default();
                Ok::<_, FunctionError>(serde_json::json!({ "n": n + 1 }))
            })
            .open()?;
        let bench = Self { durable, place };
        // Workers start, pages are mapped: that is not what is measured.
        let warm_up = bench.durable.start(&Workflow::new(ONE))?;
        ensure!(bench.durable.result::<i64>(warm_up)? == 2);
        Ok(bench)
    }
}

pub(crate) fn run(settings: &Settings) -> Result<()> {
    type Workload = fn(&Settings, &str) -> Result<()>;
    let workloads: [(&str, Workload); 6] = [
        ("W1", sequence),
        ("W2", fan),
        ("W3", wide),
        ("W4", latency),
        ("W5", suspended),
        ("W6", steps),
    ];
    let isolation = if settings.thread { "thread" } else { "process" };
    let peer = format!("durable-monty rust {isolation}{}", settings.server());
    for (name, workload) in workloads {
        if settings.wants(name) {
            workload(settings, &peer)?;
        }
    }
    Ok(())
}

fn timed(settings: &Settings, mut run: impl FnMut(&Bench) -> Result<()>) -> Result<Vec<f64>> {
    let mut seconds = Vec::new();
    for _ in 0..settings.repeats {
        let bench = Bench::open(settings)?;
        let begun = Instant::now();
        run(&bench)?;
        seconds.push(begun.elapsed().as_secs_f64());
    }
    Ok(seconds)
}

fn sequence(settings: &Settings, peer: &str) -> Result<()> {
    one_execution(settings, peer, "W1", SEQUENCE)
}

/// One execution of a program that makes `n` steps and adds up what they give.
fn one_execution(settings: &Settings, peer: &str, workload: &str, source: &str) -> Result<()> {
    let n = settings.scaled(1_000);
    let seconds = timed(settings, |bench| {
        let id = bench.durable.start(&Workflow::new(source).input("n", n)?)?;
        ensure!(bench.durable.result::<usize>(id)? == n * (n + 1) / 2);
        Ok(())
    })?;
    let s = median(&seconds);
    emit(
        peer,
        workload,
        &[
            ("n", n.into()),
            ("seconds", rounded(s)),
            ("steps_per_s", rounded(n as f64 / s)),
            ("step_ms", rounded(1e3 * s / n as f64)),
            ("runs", all_rounded(&seconds)),
        ],
    );
    Ok(())
}

fn fan(settings: &Settings, peer: &str) -> Result<()> {
    let n = settings.scaled(1_000);
    let seconds = timed(settings, |bench| {
        let workflow = Workflow::new(FAN);
        let starts = (0..n).map(|_| workflow.to_start(&["step".to_owned()])).collect();
        for id in bench.durable.engine().start_many(starts)? {
            ensure!(bench.durable.result::<i64>(id)? == 2);
        }
        Ok(())
    })?;
    let s = median(&seconds);
    emit(
        peer,
        "W2",
        &[
            ("n", n.into()),
            ("seconds", rounded(s)),
            ("workflows_per_s", rounded(n as f64 / s)),
            ("steps_per_s", rounded(4.0 * n as f64 / s)),
            ("runs", all_rounded(&seconds)),
        ],
    );
    Ok(())
}

fn wide(settings: &Settings, peer: &str) -> Result<()> {
    one_execution(settings, peer, "W3", WIDE)
}

/// How many steps of W6 can run side by side.
const WIDTH: usize = 100;

/// Layers of steps, of which each needs one of the layer before it, and a last one that needs all
/// of the last layer.
fn layers(steps: usize) -> String {
    let mut text = "id: layers\nsteps:\n".to_owned();
    let layered = steps - 1;
    for step in 0..layered {
        let (needs, n) = match step.checked_sub(WIDTH) {
            None => (String::new(), step.to_string()),
            Some(above) => (format!("s{above}"), format!("'{{{{ steps.s{above}.n }}}}'")),
        };
        text +=
            &format!("  - {{name: s{step}, agent: step, needs: [{needs}], input: {{n: {n}}}}}\n");
    }
    let last: Vec<_> =
        (layered.saturating_sub(WIDTH)..layered).map(|step| format!("s{step}")).collect();
    text + &format!(
        "  - {{name: last, agent: step, needs: [{}], input: {{n: 0}}}}\n",
        last.join(", ")
    )
}

/// One step workflow of `n` steps, 100 wide.
fn steps(settings: &Settings, peer: &str) -> Result<()> {
    let n = settings.scaled(1_000).max(WIDTH + 1);
    let source = layers(n);
    let seconds = timed(settings, |bench| {
        let id = bench.durable.start(&Workflow::steps(Language::Yaml, &source))?;
        let output: serde_json::Value = bench.durable.result(id)?;
        ensure!(output["last"]["n"] == 1 && output.as_object().is_some_and(|all| all.len() == n));
        Ok(())
    })?;
    let s = median(&seconds);
    emit(
        peer,
        "W6",
        &[
            ("n", n.into()),
            ("seconds", rounded(s)),
            ("steps_per_s", rounded(n as f64 / s)),
            ("runs", all_rounded(&seconds)),
        ],
    );
    Ok(())
}

fn latency(settings: &Settings, peer: &str) -> Result<()> {
    let n = settings.scaled(100);
    let (mut p50_ms, mut p99_ms) = (Vec::new(), Vec::new());
    for _ in 0..settings.repeats {
        let bench = Bench::open(settings)?;
        let mut samples_ms = Vec::new();
        for _ in 0..n {
            let begun = Instant::now();
            let id = bench.durable.start(&Workflow::new(ONE))?;
            ensure!(bench.durable.result::<i64>(id)? == 2);
            samples_ms.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        p50_ms.push(median(&samples_ms));
        p99_ms.push(percentile(&samples_ms, 99.0));
    }
    emit(
        peer,
        "W4",
        &[
            ("n", (n * settings.repeats).into()),
            ("p50_ms", rounded(median(&p50_ms))),
            ("p99_ms", rounded(median(&p99_ms))),
            ("p50_runs", all_rounded(&p50_ms)),
        ],
    );
    Ok(())
}

fn suspended(settings: &Settings, peer: &str) -> Result<()> {
    let n = settings.scaled(10_000);
    let bench = Bench::open(settings)?;
    let before_mib = resident_mib()?;
    let before_bytes = bench.place.bytes()?;
    let begun = Instant::now();
    let workflow = Workflow::new(SUSPENDED);
    let mut ids: Vec<ExecutionId> = Vec::with_capacity(n);
    while ids.len() < n {
        let chunk = 500.min(n - ids.len());
        let starts = (0..chunk).map(|_| workflow.to_start(&["step".to_owned()])).collect();
        ids.extend(bench.durable.engine().start_many(starts)?);
    }
    let start_s = begun.elapsed().as_secs_f64();
    while bench.durable.engine().held() > 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let suspended_s = begun.elapsed().as_secs_f64();
    let cpu_before_s = cpu_seconds()?;
    std::thread::sleep(Duration::from_secs(5));
    let idle_cpu_s = cpu_seconds()? - cpu_before_s;
    emit(
        peer,
        "W5",
        &[
            ("n", n.into()),
            ("rss_before_mib", rounded(before_mib)),
            ("rss_mib", rounded(resident_mib()?)),
            ("db_bytes_per_wf", rounded((bench.place.bytes()? - before_bytes) as f64 / n as f64)),
            ("start_s", rounded(start_s)),
            ("all_suspended_s", rounded(suspended_s)),
            ("idle_cpu_s_in_5_s", rounded(idle_cpu_s)),
        ],
    );
    Ok(())
}

/// Resident memory of this process and its interpreter workers.
fn resident_mib() -> Result<f64> {
    let mut kib = 0;
    for pid in family()? {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        kib += number.unwrap_or(0);
    }
    Ok(kib as f64 / 1024.0)
}

/// Processor time of this process and its interpreter workers so far.
fn cpu_seconds() -> Result<f64> {
    let mut ticks = 0;
    for pid in family()? {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
        ticks += fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
    }
    Ok(ticks as f64 / 100.0)
}

fn family() -> Result<Vec<u32>> {
    let mut pids = children()?;
    pids.push(std::process::id());
    Ok(pids)
}

/// The interpreter workers.
pub(crate) fn children() -> Result<Vec<u32>> {
    let own = std::process::id();
    let mut pids = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1));
        if parent.and_then(|parent| parent.parse().ok()) == Some(own) {
            pids.push(pid);
        }
    }
    Ok(pids)
}
