//! kill -9 at any moment: the video example completes after restarts, with the right output, and
//! no call that was recorded as complete runs again.

mod support;

use std::process::Command;

use support::{example, kills::kill_at_random_moments};

const EXPECTED: &str = "package of encoded_ep1.mp4, encoded_ep2.mp4, encoded_ep3.mp4 and \
    thumb_encoded_ep1.mp4, thumb_encoded_ep2.mp4, thumb_encoded_ep3.mp4\n";

#[test]
fn killed_at_random_moments_with_worker_processes() {
    kill_at_random_moments("video", "process", EXPECTED);
}

#[test]
fn killed_at_random_moments_with_threads() {
    kill_at_random_moments("video", "thread", EXPECTED);
}

#[test]
fn the_quick_start_prints_its_result() {
    let output = Command::new(example("quick_start")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "10\n");
}
