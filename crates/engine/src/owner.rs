//! Names of engines, and which of them are gone.
//!
//! A lease outlives the process that held it until it expires. When the holder ran on this very
//! machine, the process table tells at once that it is gone, and nobody has to wait. The name of
//! an owner says what is needed for that: machine boot, process-id namespace, process id and the
//! process's start time (process ids are used again, start times with them are not).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use durable_core::Owner;
use rustix::{
    io::Errno,
    process::{Pid, test_kill_process},
};

use crate::ports::{OwnerProbe, Random};

/// Where the system shows its processes.
const PROCESSES: &str = "/proc";

/// Where a process runs, as far as process ids are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    boot: String,
    namespace: String,
}

impl Place {
    /// `None` on systems without `/proc`.
    fn here() -> Option<Self> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let namespace = fs::read_link("/proc/self/ns/pid").ok()?;
        let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
        let boot = boot.chars().filter(char::is_ascii_hexdigit).take(8).collect();
        Some(Self { boot, namespace: digits(&namespace.to_string_lossy()) })
    }
}

/// When a process started, in clock ticks since boot; `None` when it is not there any more
/// (a zombie is not).
///
/// # Errors
/// That can't be told: the table can't be read now, or does not show the processes of others.
fn start_ticks(processes: &Path, pid: u32) -> io::Result<Option<u64>> {
    let stat = match fs::read_to_string(processes.join(format!("{pid}/stat"))) {
        Ok(stat) => stat,
        // Only signals tell a process that ended from one that is not shown.
        Err(_) if has_ended(pid) => return Ok(None),
        Err(error) => return Err(error),
    };
    // The command name stands in parentheses and may itself hold spaces and parentheses.
    let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    if matches!(fields.next(), Some("Z" | "X")) {
        return Ok(None);
    }
    let ticks = fields.nth(18).and_then(|ticks| ticks.parse().ok());
    ticks.map(Some).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Whether no signal reaches a process because it is not there.
fn has_ended(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid) == Err(Errno::SRCH))
}

/// Makes the name of an engine that lives in this process.
pub fn new_owner(random: &dyn Random) -> Owner {
    let pid = std::process::id();
    let unique = random.next_u64() as u32;
    Owner::new(&match (Place::here(), start_ticks(Path::new(PROCESSES), pid)) {
        (Some(place), Ok(Some(ticks))) => {
            format!("{}.{}.{pid}.{ticks}.{unique:08x}", place.boot, place.namespace)
        }
        _ => format!("-.-.{pid}.-.{unique:08x}"),
    })
}

/// Looks owners up in the process table of this machine.
#[derive(Debug)]
pub struct ProcessTable {
    here: Option<Place>,
    processes: PathBuf,
}

impl ProcessTable {
    /// Reads where this process runs.
    pub fn new() -> Self {
        Self { here: Place::here(), processes: PROCESSES.into() }
    }
}

impl Default for ProcessTable {
    fn default() -> Self {
        Self::new()
    }
}

impl OwnerProbe for ProcessTable {
    fn is_gone(&self, owner: &Owner) -> bool {
        let parts: Vec<_> = owner.as_str().split('.').collect();
        let [boot, namespace, pid, ticks, _unique] = parts[..] else { return false };
        let (Ok(pid), Ok(ticks)) = (pid.parse(), ticks.parse::<u64>()) else { return false };
        let same_place =
            self.here.as_ref().is_some_and(|here| here.boot == boot && here.namespace == namespace);
        // Whoever can't be looked up is taken to be there: his lease expires if he is not.
        same_place && start_ticks(&self.processes, pid).is_ok_and(|now| now != Some(ticks))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::SystemRandom;

    #[test]
    fn this_process_is_not_gone() {
        assert!(!ProcessTable::new().is_gone(&new_owner(&SystemRandom)));
    }

    /// An owner whose process has ended.
    fn ended() -> Owner {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        let here = Place::here().unwrap();
        Owner::new(&format!("{}.{}.{pid}.1.00000000", here.boot, here.namespace))
    }

    #[test]
    fn a_process_that_ended_is_gone() {
        assert!(ProcessTable::new().is_gone(&ended()));
    }

    #[test]
    fn a_process_that_nobody_has_waited_for_yet_is_gone() {
        let mut child =
            std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().unwrap();
        let ticks = start_ticks(Path::new(PROCESSES), child.id()).unwrap().unwrap();
        let here = Place::here().unwrap();
        let name = format!("{}.{}.{}.{ticks}.00000000", here.boot, here.namespace, child.id());
        let owner = Owner::new(&name);
        assert!(!ProcessTable::new().is_gone(&owner));
        child.kill().unwrap();
        rustix::process::waitid(
            rustix::process::WaitId::Pid(Pid::from_child(&child)),
            rustix::process::WaitIdOptions::EXITED | rustix::process::WaitIdOptions::NOWAIT,
        )
        .unwrap();
        assert!(ProcessTable::new().is_gone(&owner), "it is a zombie");
        child.wait().unwrap();
    }

    #[test]
    fn a_process_is_not_gone_because_the_table_does_not_show_it() {
        // As under `hidepid`; and as when no more files can be opened.
        let empty = tempfile::tempdir().unwrap();
        for processes in [empty.path().to_owned(), "/dev/null".into()] {
            let table = ProcessTable { here: Place::here(), processes };
            assert!(!table.is_gone(&new_owner(&SystemRandom)), "{table:?}");
            assert!(table.is_gone(&ended()), "{table:?}");
        }
    }

    #[test]
    fn a_process_elsewhere_is_never_known_to_be_gone() {
        let here = Place::here().unwrap();
        let table = ProcessTable::new();
        for name in [
            format!("00000000.{}.999999.1.0", here.namespace),
            format!("{}.1.999999.1.0", here.boot),
            "-.-.999999.-.0".to_owned(),
            "somebody".to_owned(),
        ] {
            assert!(!table.is_gone(&Owner::new(&name)), "{name}");
        }
    }
}
