//! Names of engines, and which of them are gone.
//!
//! A lease outlives the process that held it until it expires. When the holder ran on this very
//! machine, the process table tells at once that it is gone, and nobody has to wait. The name of
//! an owner says what is needed for that: machine boot, process-id namespace, process id and the
//! process's start time (process ids are used again, start times with them are not).

use std::fs;

use durable_core::Owner;

use crate::ports::{OwnerProbe, Random};

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
fn start_ticks(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command name stands in parentheses and may itself hold spaces and parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?;
    if matches!(state, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Makes the name of an engine that lives in this process.
pub fn new_owner(random: &dyn Random) -> Owner {
    let pid = std::process::id();
    let unique = random.next_u64() as u32;
    Owner::new(&match (Place::here(), start_ticks(pid)) {
        (Some(place), Some(ticks)) => {
            format!("{}.{}.{pid}.{ticks}.{unique:08x}", place.boot, place.namespace)
        }
        _ => format!("-.-.{pid}.-.{unique:08x}"),
    })
}

/// Looks owners up in the process table of this machine.
#[derive(Debug)]
pub struct ProcessTable {
    here: Option<Place>,
}

impl ProcessTable {
    /// Reads where this process runs.
    pub fn new() -> Self {
        Self { here: Place::here() }
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
        same_place && start_ticks(pid) != Some(ticks)
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

    #[test]
    fn a_process_that_ended_is_gone() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        child.wait().unwrap();
        let here = Place::here().unwrap();
        let owner = Owner::new(&format!("{}.{}.{pid}.1.00000000", here.boot, here.namespace));
        assert!(ProcessTable::new().is_gone(&owner));
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
