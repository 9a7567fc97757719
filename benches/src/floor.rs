//! What the disk and SQLite give at best: nothing durable can be faster.

use std::{fs, io::Write as _, time::Instant};

use anyhow::Result;

use crate::measure::{Settings, emit, median, percentile, rounded};

pub(crate) fn run(settings: &Settings) -> Result<()> {
    if !settings.wants("floor") {
        return Ok(());
    }
    fs::create_dir_all(&settings.dir)?;
    let dir = tempfile::tempdir_in(&settings.dir)?;
    let mut file = fs::File::create(dir.path().join("append"))?;
    let mut syncs_ms = Vec::new();
    for _ in 0..settings.scaled(1_000) {
        let begun = Instant::now();
        file.write_all(&[b'x'; 4096])?;
        file.sync_data()?;
        syncs_ms.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    emit(
        "floor",
        "fdatasync_4k_append",
        &[("p50_ms", rounded(median(&syncs_ms))), ("p99_ms", rounded(percentile(&syncs_ms, 99.0)))],
    );
    let database = rusqlite::Connection::open(dir.path().join("floor.db"))?;
    database.pragma_update(None, "journal_mode", "WAL")?;
    database.pragma_update(None, "synchronous", "FULL")?;
    database.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, a TEXT, b BLOB)", [])?;
    let n = settings.scaled(2_000);
    let begun = Instant::now();
    let mut insert = database.prepare("INSERT INTO t (a, b) VALUES (?1, ?2)")?;
    for index in 0..n {
        insert.execute((format!("k{index}"), [b'y'; 100]))?;
    }
    let per_s = n as f64 / begun.elapsed().as_secs_f64();
    emit("floor", "sqlite_WAL_FULL", &[("single_commits_per_s", rounded(per_s))]);
    Ok(())
}
