//! What every provider has to do, as a library: a provider of your own runs [`run`] in its tests.

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use durable_core::{Error, Lease, Owner};

use crate::{Ask, Checkpoints, ExecutionName, Options, Provider};

/// Opens the provider that is looked at. Called more than once: all it opens see the same
/// checkpoints, as processes on several machines would.
pub type Open<'a> = &'a dyn Fn() -> Arc<dyn Provider>;

/// Long enough to outlast a test.
const LONG: Duration = Duration::from_secs(600);

type Case = fn(Open<'_>);

/// Looks at everything a provider has to do; panics with what it does not.
pub fn run(open: Open<'_>) {
    let cases: [(&str, Case); 12] = [
        ("what was saved can be loaded", what_was_saved_can_be_loaded),
        ("what is not there is none", what_is_not_there_is_none),
        ("lists are in the order of numbers", lists_are_in_the_order_of_numbers),
        ("executions are apart", executions_are_apart),
        ("a save replaces", a_save_replaces),
        ("cleanup keeps the last", cleanup_keeps_the_last),
        ("one holds the lease", one_holds_the_lease),
        ("an expired lease is taken over", an_expired_lease_is_taken_over),
        ("a lost lease writes nothing", a_lost_lease_writes_nothing),
        ("one of many writers wins", one_of_many_writers_wins),
        ("retention runs on save", retention_runs_on_save),
        ("large contents come back", large_contents_come_back),
    ];
    for (promise, case) in cases {
        let _named = NameOnPanic(promise);
        case(open);
    }
}

/// Says which case was running when it panicked.
struct NameOnPanic(&'static str);

impl Drop for NameOnPanic {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("conformance: the provider broke the promise '{}'", self.0);
        }
    }
}

/// An execution that no other test knows.
fn execution() -> ExecutionName {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    expect(ExecutionName::parse(&format!("t{}-{since}-{count}", std::process::id())))
}

#[track_caller]
fn expect<T>(result: durable_core::Result<T>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error}"),
    }
}

#[track_caller]
fn refuses<T>(result: durable_core::Result<T>) {
    assert!(matches!(result, Err(Error::Conflict(_))), "it should be refused as a conflict");
}

fn acquire(
    provider: &dyn Provider,
    execution: &ExecutionName,
    name: &str,
    duration: Duration,
) -> durable_core::Result<Lease> {
    let owner = Owner::new(name);
    let epoch = provider.acquire(&Ask { execution, owner: &owner, duration, gone: None })?;
    Ok(Lease { owner, epoch })
}

fn what_was_saved_can_be_loaded(open: Open<'_>) {
    let (provider, execution) = (open(), execution());
    let lease = expect(acquire(&*provider, &execution, "ann", LONG));
    let contents: [&[u8]; 3] = [b"one", b"", b"\0\xff'\";\\"];
    for (number, content) in (1..).zip(contents) {
        expect(provider.save(&execution.checkpoint(number), &lease, content));
    }
    let other = open();
    for (number, content) in (1..).zip(contents) {
        let loaded = expect(other.load(&execution.checkpoint(number)));
        assert_eq!(loaded.as_deref(), Some(content));
    }
}

fn what_is_not_there_is_none(open: Open<'_>) {
    let (provider, execution) = (open(), execution());
    let id = execution.checkpoint(1);
    assert_eq!(expect(provider.load(&id)), None);
    assert!(expect(provider.list(&execution)).is_empty());
    assert!(!expect(provider.delete(&id)));
    assert_eq!(expect(provider.cleanup(&execution, 1)), 0);
    assert_eq!(expect(provider.holder(&execution)), None);
    let lease = expect(acquire(&*provider, &execution, "ann", LONG));
    expect(provider.save(&id, &lease, b"state"));
    assert!(expect(provider.delete(&id)));
    assert_eq!(expect(provider.load(&id)), None);
}

fn lists_are_in_the_order_of_numbers(open: Open<'_>) {
    let (provider, execution) = (open(), execution());
    let lease = expect(acquire(&*provider, &execution, "ann", LONG));
    let most = 999_999_999_999;
    for number in [10, 9, 1, most, 2, 100] {
        expect(provider.save(&execution.checkpoint(number), &lease, b"state"));
    }
    assert_eq!(expect(open().list(&execution)), [1, 2, 9, 10, 100, most]);
}

fn executions_are_apart(open: Open<'_>) {
    let (provider, one) = (open(), execution());
    let names =
        [format!("{one}-2"), format!("{one}."), format!("{one}_"), one.to_string().to_uppercase()];
    let others = names.map(|name| expect(ExecutionName::parse(&name)));
    let lease = expect(acquire(&*provider, &one, "ann", LONG));
    expect(provider.save(&one.checkpoint(1), &lease, b"one"));
    for other in &others {
        assert!(expect(provider.list(other)).is_empty(), "{other} shows what belongs to {one}");
        let lease = expect(acquire(&*provider, other, "bob", LONG));
        expect(provider.save(&other.checkpoint(1), &lease, b"other"));
        expect(provider.cleanup(other, 0));
    }
    assert_eq!(expect(provider.load(&one.checkpoint(1))).as_deref(), Some(&b"one"[..]));
}

fn a_save_replaces(open: Open<'_>) {
    let (provider, execution) = (open(), execution());
    let lease = expect(acquire(&*provider, &execution, "ann", LONG));
    let id = execution.checkpoint(1);
    expect(provider.save(&id, &lease, b"a longer content"));
    expect(provider.save(&id, &lease, b"short"));
    assert_eq!(expect(open().load(&id)).as_deref(), Some(&b"short"[..]));
    assert_eq!(expect(provider.list(&execution)), [1]);
}

fn cleanup_keeps_the_last(open: Open<'_>) {
    let (provider, execution) = (open(), execution());
    let lease = expect(acquire(&*provider, &execution, "ann", LONG));
    for number in 1..=12 {
        expect(provider.save(&execution.checkpoint(number), &lease, b"state"));
    }
    assert_eq!(expect(provider.cleanup(&execution, 12)), 0);
    assert_eq!(expect(provider.cleanup(&execution, 3)), 9);
    assert_eq!(expect(provider.list(&execution)), [10, 11, 12]);
    assert_eq!(expect(provider.cleanup(&execution, 0)), 3);
    assert!(expect(provider.list(&execution)).is_empty());
}

fn one_holds_the_lease(open: Open<'_>) {
    let (provider, other, execution) = (open(), open(), execution());
    let first = expect(acquire(&*provider, &execution, "ann", LONG));
    refuses(acquire(&*other, &execution, "bob", LONG));
    assert_eq!(expect(other.holder(&execution)), Some(Owner::new("ann")));
    expect(provider.renew(&execution, &first, LONG));
    let again = expect(acquire(&*provider, &execution, "ann", LONG));
    assert!(again.epoch > first.epoch, "a new tenure has a greater epoch");
    refuses(provider.renew(&execution, &first, LONG));
    expect(provider.release(&execution, &first));
    refuses(acquire(&*other, &execution, "bob", LONG));
    expect(provider.release(&execution, &again));
    assert_eq!(expect(other.holder(&execution)), None);
    let bobs = expect(acquire(&*other, &execution, "bob", LONG));
    assert!(bobs.epoch > again.epoch, "a new tenure has a greater epoch");
}

fn an_expired_lease_is_taken_over(open: Open<'_>) {
    let (provider, other, execution) = (open(), open(), execution());
    let anns = expect(acquire(&*provider, &execution, "ann", Duration::ZERO));
    // Nobody took it over yet.
    expect(provider.save(&execution.checkpoint(1), &anns, b"state"));
    let bobs = expect(acquire(&*other, &execution, "bob", LONG));
    assert!(bobs.epoch > anns.epoch);
    refuses(provider.renew(&execution, &anns, LONG));
    // One whose owner is known to be gone need not expire.
    let [ann, bob, cleo] = ["ann", "bob", "cleo"].map(Owner::new);
    let duration = LONG;
    let ask = |gone| Ask { execution: &execution, owner: &ann, duration, gone };
    refuses(provider.acquire(&ask(Some(&cleo))));
    assert!(expect(provider.acquire(&ask(Some(&bob)))) > bobs.epoch);
}

fn a_lost_lease_writes_nothing(open: Open<'_>) {
    let (provider, other, execution) = (open(), open(), execution());
    let anns = expect(acquire(&*provider, &execution, "ann", Duration::ZERO));
    expect(provider.save(&execution.checkpoint(1), &anns, b"ann's"));
    let bobs = expect(acquire(&*other, &execution, "bob", LONG));
    expect(other.save(&execution.checkpoint(2), &bobs, b"bob's"));
    for number in 1..=3 {
        refuses(provider.save(&execution.checkpoint(number), &anns, b"too late"));
    }
    let never = Lease { owner: Owner::new("cleo"), epoch: bobs.epoch };
    refuses(provider.save(&execution.checkpoint(2), &never, b"never"));
    assert_eq!(expect(other.list(&execution)), [1, 2]);
    assert_eq!(expect(other.load(&execution.checkpoint(1))).as_deref(), Some(&b"ann's"[..]));
    assert_eq!(expect(other.load(&execution.checkpoint(2))).as_deref(), Some(&b"bob's"[..]));
}

fn one_of_many_writers_wins(open: Open<'_>) {
    let execution = execution();
    let providers: Vec<_> = (0..4).map(|_| open()).collect();
    let start = Barrier::new(providers.len());
    let won: Vec<bool> = thread::scope(|scope| {
        let writers: Vec<_> = providers
            .iter()
            .map(|provider| {
                let (execution, start) = (&execution, &start);
                scope.spawn(move || {
                    let options = Options { lease: LONG, ..Options::default() };
                    let checkpoints = Checkpoints::new(provider.clone(), options);
                    start.wait();
                    let won = (1..=5).all(|number| {
                        let id = execution.checkpoint(number).to_string();
                        checkpoints.save(&id, b"state").is_ok()
                    });
                    // Nobody gives the lease back before all have tried.
                    start.wait();
                    won
                })
            })
            .collect();
        writers.into_iter().map(|writer| writer.join().unwrap_or(false)).collect()
    });
    // Objects have no transactions: there all may lose at once, and try again.
    assert!(won.iter().filter(|won| **won).count() <= 1, "several writers: {won:?}");
}

fn retention_runs_on_save(open: Open<'_>) {
    let execution = execution();
    let options = Options { keep_last: Some(3), ..Options::default() };
    let checkpoints = Checkpoints::new(open(), options);
    for number in 1..=10 {
        let id = execution.checkpoint(number).to_string();
        let saved = expect(checkpoints.save(&id, format!("state {number}").as_bytes()));
        assert_eq!(saved.removed, usize::from(number > 3));
    }
    // Who has it keep all removes nothing.
    let options = Options { keep_last: None, ..Options::default() };
    drop(checkpoints);
    let checkpoints = Checkpoints::new(open(), options);
    let saved = expect(checkpoints.save(&execution.checkpoint(11).to_string(), b"state 11"));
    assert_eq!(saved.removed, 0);
    let left = expect(checkpoints.list(execution.as_str()));
    assert_eq!(left, [8, 9, 10, 11].map(|number| execution.checkpoint(number).to_string()));
    let latest = expect(checkpoints.latest(execution.as_str()));
    assert_eq!(latest.map(|latest| latest.content), Some(b"state 11".to_vec()));
}

fn large_contents_come_back(open: Open<'_>) {
    let execution = execution();
    let checkpoints = Checkpoints::new(open(), Options::default());
    let mut state = blake3::Hasher::new().update(b"noise").finalize_xof();
    let mut content = vec![0; 3 << 20];
    state.fill(&mut content);
    let id = execution.checkpoint(1).to_string();
    expect(checkpoints.save(&id, &content));
    assert!(expect(checkpoints.load(&id)).as_deref() == Some(&content[..]));
    let refused = checkpoints.save(&id, &vec![0; (10 << 20) + 1]);
    assert!(matches!(refused, Err(Error::Invalid(_))), "too large, and taken");
}
