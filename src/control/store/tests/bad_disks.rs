//! Databases that are none, that go away or go bad, and disks that take nothing.

use super::*;

#[test]
fn what_is_no_use_is_moved_aside() {
    let rubbish: [fn(&Path); 5] = [
        |path| fs::write(path, "not a database at all, but long enough to be taken for one".repeat(100)).unwrap(),
        |path| Connection::open(path).unwrap().execute_batch("CREATE TABLE other (x);").unwrap(),
        |path| {
            made(path);
            let file = fs::OpenOptions::new().write(true).open(path).unwrap();
            file.set_len(8192).unwrap();
        },
        |path| {
            made(path);
            let mut bytes = fs::read(path).unwrap();
            bytes[4096..].fill(0xA5);
            fs::write(path, bytes).unwrap();
        },
        |path| {
            made(path);
            Connection::open(path).unwrap().execute_batch("PRAGMA user_version = 99").unwrap();
        },
    ];
    for prepare in rubbish {
        let stage = Desk::prepared(prepare);
        assert_eq!(stage.said(), ["the session database cannot be used; a new one was begun"]);
        assert_eq!(stage.aside(), 1);
        stage.put((0..10).map(session));
        stage.wait_written(10);
        assert_eq!(stage.total(Filter::default()), 10);
        assert_eq!(stage.store.dropped(), 0);
    }
}

/// A program that breaks its database again and again (or a disk that does) fills no disk.
#[test]
fn only_the_newest_that_were_moved_aside_stay() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("sessions.db");
    let others = ["sessions.db.corrupt.mine", "sessions.db.corrupt.+7", "sessions.db2.corrupt.5", "other.db.corrupt.5"];
    for other in others {
        fs::write(directory.path().join(other), "theirs").unwrap();
    }
    // One from before, of a clock that was ahead, and what is left of another.
    let ahead = 4_000_000_000_u64;
    fs::write(directory.path().join(format!("sessions.db.corrupt.{ahead}")), "ahead").unwrap();
    fs::write(directory.path().join("sessions.db.corrupt.17-wal"), "left").unwrap();
    let mut moved = Vec::new();
    for n in 0..10 {
        for file in file::all(&path) {
            fs::write(file, n.to_string()).unwrap();
        }
        moved.push(file::move_aside(&path).unwrap());
    }
    let newest: Vec<PathBuf> =
        (8..=10).map(|n| directory.path().join(format!("sessions.db.corrupt.{}", ahead + n))).collect();
    assert_eq!(moved[7..], newest);
    for (n, aside) in moved.iter().enumerate() {
        for file in file::all(aside) {
            assert_eq!(fs::read_to_string(file).ok(), (n >= 7).then(|| n.to_string()));
        }
    }
    let left = fs::read_dir(directory.path()).unwrap().count();
    assert_eq!(left, 3 * 3 + others.len(), "only what arus itself made is removed");
}

/// A database with some records, closed.
fn made(path: &Path) {
    let store = Store::start(&terms(path), events(), Vec::new()).unwrap();
    store.put((0..300).map(session).map(Arc::new));
    store.finish(Duration::from_secs(60));
    assert_eq!((store.state().written, store.dropped()), (300, 0));
}

#[test]
fn what_goes_bad_while_it_is_used_is_noticed() {
    let stage = Desk::new();
    stage.put((0..300).map(session));
    stage.wait_written(300);
    // Taken away.
    for file in file::all(&stage.path) {
        let _ = fs::remove_file(file);
    }
    until("the loss is noticed", || stage.said().len() == 1);
    until("a new one is begun", || stage.path.exists() && stage.store.state().state == "ok");
    stage.put((300..400).map(session));
    stage.wait_written(400);
    until("it can be read", || stage.total(Filter::default()) == 100);
    // Overwritten: whoever reads finds out.
    let bytes = fs::read(&stage.path).unwrap();
    fs::write(&stage.path, vec![0x5A; bytes.len()]).unwrap();
    fs::write(file::all(&stage.path)[1].clone(), vec![0x5A; 10]).unwrap();
    until("it is moved aside", || {
        let _ = stage.runtime.block_on(stage.store.list(Vec::new(), Filter::default(), NEWEST, 0, 1));
        stage.put([session(999)]);
        stage.aside() > 0
    });
    let before = stage.store.state().written;
    stage.put((500..510).map(session));
    stage.wait_written(before + 1);
}

/// Somebody tidies up: what is written from then on would be nowhere, and nobody could read. Or somebody copies other
/// files over them: the process would end, as one of them is mapped.
#[test]
fn the_other_files_of_a_database_are_missed() {
    let cut = |path: &Path| fs::File::options().write(true).open(path).and_then(|file| file.set_len(0));
    let remove = |path: &Path| fs::remove_file(path);
    type Harm<'h> = &'h dyn Fn(&Path) -> std::io::Result<()>;
    let harms: [(usize, Harm<'_>); 3] = [(1, &remove), (2, &remove), (2, &cut)];
    for (end, harm) in harms {
        let stage = Desk::new();
        stage.put((0..300).map(session));
        stage.wait_written(300);
        harm(&file::all(&stage.path)[end]).unwrap();
        stage.put((300..350).map(session));
        until("the loss is noticed", || stage.said().len() == 1);
        assert_eq!(stage.said(), ["a file of the session database was moved, removed or cut; it is opened again"]);
        stage.put((350..400).map(session));
        stage.wait_written(400);
        until("it is opened", || stage.store.state().state == "ok");
        assert_eq!((stage.total(Filter::default()), stage.aside()), (400, 0));
        stage.store.finish(Duration::from_secs(60));
        let connection = Connection::open(&stage.path).unwrap();
        let stored: u64 = connection.query_row("SELECT count(*) FROM sessions", [], |row| row.get(0)).unwrap();
        assert_eq!(stored, 400);
    }
}

#[test]
fn a_killed_process_leaves_sessions_that_are_closed() {
    let stage = Desk::prepared(|path| {
        let (mut database, stale) = database::Database::open(path, 1).unwrap();
        assert_eq!(stale, 0);
        let long: Vec<Summary> = (0..5).map(live).collect();
        database.note_active(&long, 1).unwrap();
        database.note_active(&long, 2).unwrap();
        // One of them ends properly, and is then told of as a live one by a shard that was slow.
        let ended = shelf::Finished { number: 1, summary: Arc::new(session(3)) };
        database.write(std::slice::from_ref(&ended)).unwrap();
        database.note_active(&long, 3).unwrap();
        // The same batch again, as after a commit that seemed to fail.
        database.write(&[ended]).unwrap();
    });
    assert_eq!(stage.said(), ["4 sessions of a process that was killed were closed in the database"]);
    assert_eq!(stage.total(Filter::default()), 5);
    let failed =
        stage.list(Vec::new(), Filter { state: Some(types::State::Failed), ..Filter::default() }, NEWEST, 0, 9);
    assert_eq!(failed.total, 4);
    for session in failed.sessions {
        assert_eq!((session.reason.as_deref(), session.blame.as_deref()), (Some("server_restart"), Some("proxy")));
    }
}

#[test]
fn a_disk_that_takes_nothing_holds_up_nobody() {
    let stage = Desk::new();
    let held = stage.store.shared.held.lock().unwrap();
    let begin = Instant::now();
    let more = limits::UNWRITTEN_SESSIONS as u64 + 500;
    let one = Arc::new(session(1));
    for n in 0..more {
        stage.store.put([Arc::new(Summary { id: SessionId(u128::from(n)), ..(*one).clone() })]);
    }
    assert!(begin.elapsed() < Duration::from_secs(30), "putting waits for the disk");
    let state = stage.store.state();
    assert_eq!((state.waiting, state.dropped), (limits::UNWRITTEN_SESSIONS, 500));
    drop(held);
    stage.wait_written(limits::UNWRITTEN_SESSIONS as u64);
    assert_eq!(stage.total(Filter::default()), limits::UNWRITTEN_SESSIONS as u64);
    until("the loss is said", || stage.said().len() == 1);
}

#[test]
fn a_database_that_cannot_be_made_is_tried_again() {
    let directory = tempfile::tempdir().unwrap();
    let (place, events) = (directory.path().join("not/yet"), events());
    let path = place.join("sessions.db");
    let store = Store::start(&terms(&path), events.clone(), Vec::new()).unwrap();
    assert_eq!(store.state().state, "trouble");
    store.put((0..10).map(session).map(Arc::new));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let found = runtime.block_on(store.list(Vec::new(), Filter::default(), NEWEST, 0, 5)).unwrap();
    assert_eq!((found.total, found.sessions.len()), (10, 5), "what is in memory has to do");
    fs::create_dir_all(&place).unwrap();
    until("it is made", || store.state().written == 10);
    assert_eq!((store.state().state, store.dropped()), ("ok", 0));
    let said = events.newest(10, |_| true);
    assert!(said.len() == 2 && said[0].message.ends_with("again"), "{said:?}");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}
