//! The database file: opened, brought up to date, found wanting and moved aside.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, ErrorCode, OpenFlags};

/// "arus", in the header of the file.
const APPLICATION: i32 = i32::from_be_bytes(*b"arus");
/// Each brings a database of the version that is its index to the next.
const MIGRATIONS: &[&str] = &[include_str!("schema.sql"), include_str!("datagrams.sql")];
/// A file up to this size is looked through when it is opened; a larger one shows its faults when it is used.
const CHECKED_BYTES: u64 = 64 * 1024 * 1024;
/// Databases that are kept when they were moved aside: each may be as large as what the disk holds.
const KEPT_ASIDE: usize = 3;
/// Between the name of a database and the second since 1970 when it was moved aside.
const ASIDE: &str = ".corrupt.";
/// What SQLite puts to the name of a database for its other files.
const ENDS: [&str; 2] = ["-wal", "-shm"];
/// Another process that looks into the database may hold it up so long.
const BUSY: Duration = Duration::from_secs(2);

/// Why a database cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// Its content is no use; the file has to go.
    #[error("{0}")]
    Content(String),
    /// The disk, its space or its permissions; the file may be all right.
    #[error("{0}")]
    Medium(String),
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        if is_content(&error) { Self::Content(error.to_string()) } else { Self::Medium(error.to_string()) }
    }
}

/// Whether a statement failed for what the file holds.
pub(super) fn is_content(error: &rusqlite::Error) -> bool {
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => true,
        // A table or column that is not there, a constraint that we did not make.
        Some(ErrorCode::Unknown | ErrorCode::ConstraintViolation | ErrorCode::TypeMismatch) => true,
        Some(_) => false,
        None => matches!(
            error,
            rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::QueryReturnedNoRows
        ),
    }
}

/// Which file it is, whatever its path: so that one that was moved or removed is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity(u64, u64);

impl Identity {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self(metadata.dev(), metadata.ino()))
    }
}

/// Opens a database for its one writer, and makes it where there is none.
pub(super) fn open(path: &Path) -> Result<Connection, Fault> {
    let medium = |error: io::Error| Fault::Medium(format!("{}: {error}", path.display()));
    // SQLite gives its other files the mode of this one.
    // Nor does this wait for whoever reads from a pipe.
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600).custom_flags(libc::O_NONBLOCK).open(path).map_err(medium)?;
    let metadata = fs::metadata(path).map_err(medium)?;
    if !metadata.is_file() {
        return Err(Fault::Medium(format!("{} is no file", path.display())));
    }
    if metadata.mode() & 0o077 != 0 {
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(medium)?;
    }
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY)?;
    connection.set_prepared_statement_cache_capacity(32);
    let pragma = |name: &str| connection.query_row(&format!("PRAGMA {name}"), [], |row| row.get::<_, i64>(0));
    let (application, version) = (pragma("application_id")?, pragma("user_version")?);
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let is_new = application == 0 && version == 0 && tables == 0;
    if !is_new && application != i64::from(APPLICATION) {
        return Err(Fault::Content("it is a database of something else".into()));
    }
    let version = usize::try_from(version).unwrap_or(usize::MAX);
    let Some(missing) = MIGRATIONS.get(version..) else {
        return Err(Fault::Content(format!("it has version {version}, and this arus knows {}", MIGRATIONS.len())));
    };
    // WAL: who reads does not hold up who writes. NORMAL: a crash of the machine may lose the last moments, and no more.
    connection.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL; PRAGMA journal_size_limit = 33554432;
         PRAGMA cache_size = -16384; PRAGMA temp_store = MEMORY; PRAGMA trusted_schema = OFF;",
    )?;
    for (sql, version) in missing.iter().zip(version + 1..) {
        let pragmas = format!("PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {version};");
        connection.execute_batch(&format!("BEGIN IMMEDIATE; {sql} {pragmas} COMMIT;"))?;
    }
    if !is_new && metadata.len() <= CHECKED_BYTES {
        check(&connection)?;
    }
    Ok(connection)
}

/// Looks through the whole file.
pub(super) fn check(connection: &Connection) -> Result<(), Fault> {
    let found: String = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get(0))?;
    if found == "ok" { Ok(()) } else { Err(Fault::Content(found)) }
}

/// Opens a database to read from it; it has to be there.
pub(super) fn open_to_read(path: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    match read_from(path, flags) {
        // Who reads makes the two other files where they are not there, and on a read-only disk cannot. All is in the
        // one file then, and nobody changes it.
        Err(error) if is_unmade(&error) && all(path)[1].metadata().map_or(0, |wal| wal.len()) == 0 => {
            let escaped: String = path.as_os_str().as_bytes().iter().map(|byte| format!("%{byte:02x}")).collect();
            let uri = format!("file:{escaped}?immutable=1");
            read_from(Path::new(&uri), flags | OpenFlags::SQLITE_OPEN_URI)
        }
        other => other,
    }
}

fn read_from(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(Duration::from_millis(200))?;
    connection.execute_batch(
        "PRAGMA query_only = ON; PRAGMA cache_size = -8192; PRAGMA trusted_schema = OFF; PRAGMA user_version;",
    )?;
    Ok(connection)
}

fn is_unmade(error: &rusqlite::Error) -> bool {
    matches!(error.sqlite_error_code(), Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly))
}

/// The files that belong to a database.
pub(in crate::control) fn all(path: &Path) -> [PathBuf; 3] {
    ["", ENDS[0], ENDS[1]].map(|end| with_end(path, end))
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// Gives a database another name; says which. Of those that were moved before, only the newest stay.
pub(super) fn move_aside(path: &Path) -> io::Result<PathBuf> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    // A clock that was set back makes nobody the oldest who is new.
    let newest = set_aside(path).last().map_or(0, |(when, _)| when.saturating_add(1));
    let aside = with_end(path, &format!("{ASIDE}{}", seconds.max(newest)));
    for (from, to) in all(path).iter().zip(all(&aside)) {
        match fs::rename(from, to) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let aside_now = set_aside(path);
    for (_, old) in &aside_now[..aside_now.len().saturating_sub(KEPT_ASIDE)] {
        for file in all(old) {
            // What cannot be removed now is tried again at the next one.
            let _ = fs::remove_file(file);
        }
    }
    Ok(aside)
}

/// The databases that were moved aside, oldest first.
fn set_aside(path: &Path) -> Vec<(u64, PathBuf)> {
    let Some(name) = path.file_name() else { return Vec::new() };
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut aside: Vec<(u64, PathBuf)> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let found = entry.file_name();
            let rest = found.as_bytes().strip_prefix(name.as_bytes())?.strip_prefix(ASIDE.as_bytes())?;
            let mut when = std::str::from_utf8(rest).ok()?;
            // The database itself may be gone, and its other files left.
            for end in ENDS {
                when = when.strip_suffix(end).unwrap_or(when);
            }
            let is_number = !when.is_empty() && when.bytes().all(|byte| byte.is_ascii_digit());
            let when = is_number.then(|| when.parse().ok())??;
            Some((when, with_end(path, &format!("{ASIDE}{when}"))))
        })
        .collect();
    aside.sort_unstable();
    aside.dedup();
    aside
}
