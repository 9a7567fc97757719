//! `durable rekey`.

use crate::support::{Desk, GATED_OUTPUT};

const ONE: &str = "one:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
const TWO: &str = "two:ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=";
const BOTH: &str = "two:ICEiIyQlJicoKSorLC0uLzAxMjM0NTY3ODk6Ozw9Pj8=,\
                    one:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";

#[test]
fn an_execution_goes_on_with_the_new_key_alone() {
    let desk = Desk::gated();
    let refused = desk.durable(&["rekey"]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(refused.err.contains("DURABLE_ENCRYPTION_KEYS"), "{refused:?}");
    // Begun in the clear, taken up with one key, and held by a process with both.
    desk.begin_gated().kill();
    let id = desk.newest();
    let resume = ["resume", &id, "--functions", "functions.py"];
    desk.set_keys(ONE);
    let child = desk.begin(&resume);
    desk.wait_at_gate();
    child.kill();
    desk.durable(&["run", "gated.py"]);
    desk.set_keys(BOTH);
    let child = desk.begin(&resume);
    desk.wait_at_gate();

    let counted = desk.durable(&["rekey", "--dry-run"]);
    assert_eq!(counted.code, 0, "{counted:?}");
    assert!(counted.err.contains("would be sealed anew"), "{counted:?}");
    assert!(counted.err.contains("were in the clear"), "{counted:?}");
    let sealed = desk.durable(&["rekey"]);
    assert_eq!(sealed.code, 0, "{sealed:?}");
    assert!(sealed.err.contains("no other key than the first is needed"), "{sealed:?}");
    let again = desk.durable(&["rekey"]);
    assert!(again.err.contains(" 0 payloads sealed anew\n"), "{again:?}");
    child.kill();

    desk.set_keys(TWO);
    assert_eq!(desk.show(&id)["status"], "waiting");
    let resumed = desk.begin(&resume);
    desk.wait_at_gate();
    let open = desk.open_gate();
    let ended = resumed.ended();
    drop(open);
    assert_eq!((ended.code, ended.out.as_str()), (0, GATED_OUTPUT), "{ended:?}");
    assert_eq!(desk.durable(&["doctor"]).code, 0);
    // What was there before is sealed as well.
    desk.set_keys("");
    let shown = desk.durable(&["show", &id]);
    assert_eq!(shown.code, 4, "{shown:?}");
    assert!(shown.err.contains("the key 'two'"), "{shown:?}");
}
