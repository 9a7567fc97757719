//! What every store must do, as a library: each store runs it in its tests.
//!
//! ```
//! durable_store::conformance::run(&|| Box::new(durable_store::MemoryStore::new()));
//! ```

mod calls;
mod controls;
mod creation;
mod journals;
mod kit;
mod leases;
mod reads;
mod registry;
mod reports;
mod retries;
mod transitions;

use crate::Store;
use kit::Kit;

/// One promise and the check of it.
type Check = (&'static str, fn(&Kit));

/// Checks every promise of [`Store`] on stores made by `make`, each on an empty one.
///
/// # Panics
/// When a promise is broken; the message before the panic names it.
pub fn run(make: &dyn Fn() -> Box<dyn Store>) {
    let groups = [
        creation::CHECKS,
        transitions::CHECKS,
        calls::CHECKS,
        journals::CHECKS,
        leases::CHECKS,
        reports::CHECKS,
        controls::CHECKS,
        reads::CHECKS,
        registry::CHECKS,
        retries::CHECKS,
    ];
    for (promise, check) in groups.into_iter().flatten() {
        let _named = NameOnPanic(promise);
        check(&Kit::new(make()));
    }
}

/// Says which check was running when it panicked.
struct NameOnPanic(&'static str);

impl Drop for NameOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("conformance: the store broke the promise '{}'", self.0);
        }
    }
}
