//! Settings, medians and the JSON lines.

use std::path::PathBuf;

use serde_json::{Map, Value};

pub(crate) struct Settings {
    only: Vec<String>,
    pub(crate) repeats: usize,
    pub(crate) scale: f64,
    pub(crate) thread: bool,
    /// Where databases are put: on the disk whose speed matters, not in memory.
    pub(crate) dir: PathBuf,
    /// A Postgres or MySQL server to use instead.
    pub(crate) db: Option<String>,
}

impl Settings {
    pub(crate) fn from_environment() -> Self {
        let var = |name: &str| std::env::var(name).ok();
        let number = |name: &str, default: f64| {
            var(name).and_then(|text| text.parse().ok()).unwrap_or(default)
        };
        Self {
            only: var("ONLY")
                .map(|text| text.split(',').map(str::to_owned).collect())
                .unwrap_or_default(),
            repeats: number("REPEATS", 3.0).max(1.0) as usize,
            scale: number("SCALE", 1.0),
            thread: var("ISOLATION").as_deref() == Some("thread"),
            db: argument("--db"),
            dir: var("BENCH_DIR").map_or_else(|| "target/bench".into(), PathBuf::from),
        }
    }

    pub(crate) fn wants(&self, workload: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == workload)
    }

    /// What the results are said to come from, beside a SQLite file.
    pub(crate) fn server(&self) -> &'static str {
        match self.db.as_deref() {
            Some(url) if url.starts_with("mysql") => " mysql",
            Some(_) => " postgres",
            None => "",
        }
    }

    pub(crate) fn scaled(&self, n: usize) -> usize {
        ((n as f64 * self.scale) as usize).max(1)
    }
}

/// What follows a word on the command line.
pub(crate) fn argument(name: &str) -> Option<String> {
    std::env::args().skip_while(|word| word != name).nth(1)
}

pub(crate) fn percentile(samples: &[f64], percent: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    sorted.get((percent / 100.0 * last as f64).round() as usize).copied().unwrap_or(f64::NAN)
}

pub(crate) fn median(samples: &[f64]) -> f64 {
    percentile(samples, 50.0)
}

/// Prints one line; numbers are rounded to four places.
pub(crate) fn emit(peer: &str, workload: &str, fields: &[(&str, Value)]) {
    let mut line = Map::new();
    line.insert("peer".into(), peer.into());
    line.insert("workload".into(), workload.into());
    for (name, value) in fields {
        line.insert((*name).into(), value.clone());
    }
    println!("{}", Value::Object(line));
}

pub(crate) fn rounded(number: f64) -> Value {
    Value::from((number * 10_000.0).round() / 10_000.0)
}

pub(crate) fn all_rounded(samples: &[f64]) -> Value {
    samples.iter().map(|sample| rounded(*sample)).collect()
}
