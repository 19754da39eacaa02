//! Notices that files have new content, whatever way it got there: the configuration, certificates.
//!
//! Editors write in place, rename a new file over the old, or delete and create; Kubernetes swaps a symlink two
//! directories up. So it is directories that are watched: those of the file, and of every link on the way to it, found
//! anew after each event. An event only says that it is time to look; what counts is the content. Every few seconds
//! the file is looked at in any case, as inotify misses what happens on network file systems.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode, EventKind};
use notify::{INotifyWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

use crate::limits;
use crate::types::Digest;

/// An event is followed up when nothing more has come for so long...
const DEBOUNCE: Duration = Duration::from_millis(75);
/// ...or after this, if they do not end.
const DEBOUNCE_MAX: Duration = Duration::from_millis(500);
/// How often the file is looked at without any event.
const POLL: Duration = Duration::from_secs(5);
/// As above where inotify cannot be had.
const POLL_ALONE: Duration = Duration::from_secs(1);
/// Links that a path may lead through, as in the kernel.
const LINKS_MAX: usize = 40;

/// Tells a file from what it was before, without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// `None`: there is no such file now, or it is a pipe or the like, which reading would wait for or use up.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let metadata = fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        Some(Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// A file's content, as last looked at.
#[derive(Debug, Clone)]
pub(super) struct Content {
    path: PathBuf,
    stamp: Option<Stamp>,
    digest: Option<Digest>,
}

impl Content {
    pub(super) fn of(path: &Path) -> Self {
        let mut content = Self { path: path.to_path_buf(), stamp: None, digest: None };
        content.has_changed();
        content
    }

    /// As it was read by somebody else.
    pub(super) fn read(path: &Path, digest: Option<Digest>) -> Self {
        Self { path: path.to_path_buf(), stamp: None, digest }
    }

    /// Looks again. A file that is not there (for now) has not changed.
    fn has_changed(&mut self) -> bool {
        let stamp = Stamp::of(&self.path);
        if stamp.is_none() || stamp == self.stamp {
            return false;
        }
        let mut text = Vec::new();
        // Nothing that is larger is ever loaded; whether it has changed makes no difference.
        let read = fs::File::open(&self.path).and_then(|file| file.take(limits::CONFIG_BYTES).read_to_end(&mut text));
        if read.is_err() {
            return false;
        }
        let digest = Some(Digest::of(&text));
        // A write within the clock tick of the stamp would not show in the next one.
        self.stamp = (Stamp::of(&self.path) == stamp).then_some(stamp).flatten();
        std::mem::replace(&mut self.digest, digest) != digest
    }
}

/// Waits for changes of some files.
pub(super) struct Watch {
    contents: Vec<Content>,
    watcher: Option<INotifyWatcher>,
    /// The directories that are watched, each with its identity: one that was replaced must be watched anew.
    directories: HashMap<PathBuf, (u64, u64)>,
    shared: Arc<Shared>,
}

/// With the watcher's thread.
#[derive(Debug, Default)]
struct Shared {
    /// The entries of the watched directories that matter.
    names: Mutex<HashSet<OsString>>,
    woken: Notify,
}

impl Watch {
    /// `contents` are as they were before the files were loaded, so that no change falls between.
    pub(super) fn new(contents: Vec<Content>) -> Self {
        let shared = Arc::new(Shared::default());
        let listener = Arc::clone(&shared);
        let listen = move |event: notify::Result<notify::Event>| {
            if event.map_or(true, |event| listener.matters(&event)) {
                listener.woken.notify_one();
            }
        };
        let watcher = INotifyWatcher::new(listen, notify::Config::default());
        let watcher = watcher
            .inspect_err(|error| {
                let every = POLL_ALONE.as_secs();
                tracing::warn!(%error, "files cannot be watched; looking at them every {every} s instead");
            })
            .ok();
        let mut watch = Self { contents, watcher, directories: HashMap::new(), shared };
        watch.follow();
        watch
    }

    /// Returns when files have new content, and which. Not to be dropped half-way: it would forget that it was waiting for a
    /// write to end.
    pub(super) async fn changed(&mut self) -> Vec<PathBuf> {
        loop {
            self.follow();
            let changed = self.contents.iter_mut().filter_map(|file| file.has_changed().then(|| file.path.clone()));
            let changed: Vec<PathBuf> = changed.collect();
            if !changed.is_empty() {
                return changed;
            }
            let poll = if self.watcher.is_some() { POLL } else { POLL_ALONE };
            if tokio::time::timeout(poll, self.shared.woken.notified()).await.is_ok() {
                self.debounce().await;
            }
        }
    }

    async fn debounce(&self) {
        let quiet = async { while tokio::time::timeout(DEBOUNCE, self.shared.woken.notified()).await.is_ok() {} };
        let _ = tokio::time::timeout(DEBOUNCE_MAX, quiet).await;
    }

    /// Watches the directories on the way to the files as the ways are now.
    fn follow(&mut self) {
        let Some(watcher) = &mut self.watcher else { return };
        let mut way = Way::default();
        for file in &self.contents {
            let Way { directories, names } = Way::to(&file.path);
            way.directories.extend(directories);
            way.names.extend(names);
        }
        let identity = |directory: &PathBuf| fs::metadata(directory).map(|metadata| (metadata.dev(), metadata.ino()));
        self.directories.retain(|directory, watched| {
            let stays = way.directories.contains(directory) && identity(directory).is_ok_and(|now| now == *watched);
            if !stays {
                // It may have gone, and its watch with it.
                let _ = watcher.unwatch(directory);
            }
            stays
        });
        for directory in way.directories {
            if self.directories.contains_key(&directory) {
                continue;
            }
            let Ok(identity) = identity(&directory) else { continue };
            match watcher.watch(&directory, RecursiveMode::NonRecursive) {
                Ok(()) => drop(self.directories.insert(directory, identity)),
                Err(error) => {
                    tracing::warn!(directory = %directory.display(), %error, "cannot be watched; looking every {} s", POLL.as_secs());
                    // Said once; asked again when it is replaced.
                    self.directories.insert(directory, identity);
                }
            }
        }
        *self.shared.names.lock().unwrap_or_else(PoisonError::into_inner) = way.names;
    }
}

impl Shared {
    /// Whether an event may be about the file. Reading it is an event too, and must not lead to reading it again.
    fn matters(&self, event: &notify::Event) -> bool {
        if matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write)) {
            return false;
        }
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        event.need_rescan() || event.paths.iter().any(|path| path.file_name().is_none_or(|name| names.contains(name)))
    }
}

/// How a path is resolved.
#[derive(Debug, Default, PartialEq, Eq)]
struct Way {
    /// Every directory with an entry that the way leads through and that could be swapped: the file, and each link.
    directories: HashSet<PathBuf>,
    /// Those entries.
    names: HashSet<OsString>,
}

impl Way {
    /// Walks as the kernel does, as far as it gets.
    fn to(path: &Path) -> Self {
        let mut way = Self::default();
        let mut place =
            if path.is_absolute() { PathBuf::from("/") } else { std::env::current_dir().unwrap_or_default() };
        let mut ahead: Vec<OsString> = Vec::new();
        let push = |ahead: &mut Vec<OsString>, path: &Path| {
            let parts = path.components().filter(|part| !matches!(part, Component::RootDir | Component::CurDir));
            ahead.extend(parts.map(|part| part.as_os_str().to_os_string()).collect::<Vec<_>>().into_iter().rev());
        };
        push(&mut ahead, path);
        let mut links = 0;
        while let Some(part) = ahead.pop() {
            if part == ".." {
                place.pop();
                continue;
            }
            let entry = place.join(&part);
            let target = fs::read_link(&entry).ok().filter(|_| links < LINKS_MAX);
            if target.is_some() || ahead.is_empty() {
                way.directories.insert(place.clone());
                way.names.insert(part);
            }
            match target {
                Some(target) => {
                    links += 1;
                    if target.is_absolute() {
                        place = PathBuf::from("/");
                    }
                    push(&mut ahead, &target);
                }
                None => place = entry,
            }
        }
        way
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    async fn expect_change(watch: &mut Watch) {
        // Below the poll interval: it is the event that is tested.
        tokio::time::timeout(Duration::from_secs(4), watch.changed()).await.expect("a change");
    }

    async fn expect_silence(watch: &mut Watch) {
        assert!(tokio::time::timeout(DEBOUNCE * 4, watch.changed()).await.is_err());
    }

    #[tokio::test]
    async fn sees_writes_in_place_renames_and_delete_with_create() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("proxy.toml");
        fs::write(&path, "one").unwrap();
        let mut watch = Watch::new(vec![Content::of(&path)]);
        fs::write(&path, "two").unwrap();
        expect_change(&mut watch).await;

        let new = directory.path().join(".proxy.toml.swp");
        fs::write(&new, "three").unwrap();
        fs::rename(&new, &path).unwrap();
        expect_change(&mut watch).await;

        fs::remove_file(&path).unwrap();
        expect_silence(&mut watch).await;
        fs::write(&path, "four").unwrap();
        expect_change(&mut watch).await;
    }

    #[tokio::test]
    async fn the_same_content_and_other_files_are_no_change() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("proxy.toml");
        fs::write(&path, "one").unwrap();
        let mut watch = Watch::new(vec![Content::of(&path)]);
        fs::write(&path, "one").unwrap();
        fs::write(directory.path().join("other"), "x").unwrap();
        expect_silence(&mut watch).await;
        fs::write(&path, "two").unwrap();
        expect_change(&mut watch).await;
    }

    #[tokio::test]
    async fn sees_a_symlink_swap_as_kubernetes_does_it() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        let swap = |version: &str, text: &str| {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("proxy.toml"), text).unwrap();
            symlink(version, at("..data_tmp")).unwrap();
            fs::rename(at("..data_tmp"), at("..data")).unwrap();
        };
        swap("..v1", "one");
        symlink("..data/proxy.toml", at("proxy.toml")).unwrap();
        let mut watch = Watch::new(vec![Content::of(&at("proxy.toml"))]);
        for (old, new, text) in [("..v1", "..v2", "two"), ("..v2", "..v3", "three")] {
            swap(new, text);
            fs::remove_dir_all(at(old)).unwrap();
            expect_change(&mut watch).await;
        }
        // And what the links lead to now is watched as well.
        fs::write(at("..v3").join("proxy.toml"), "four").unwrap();
        expect_change(&mut watch).await;
    }

    #[tokio::test]
    async fn a_change_before_the_watch_began_is_not_lost() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("proxy.toml");
        fs::write(&path, "one").unwrap();
        let content = Content::of(&path);
        fs::write(&path, "two!").unwrap();
        let mut watch = Watch::new(vec![content]);
        expect_change(&mut watch).await;
    }

    #[tokio::test]
    async fn a_file_differs_from_what_was_read_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("acl.toml");
        let read = |text: &str| Content::read(&path, Some(Digest::of(text.as_bytes())));
        // Written between reading and watching, to a text of the same length.
        fs::write(&path, "two").unwrap();
        expect_change(&mut Watch::new(vec![read("one")])).await;
        assert!(!read("two").has_changed());
        // One that could not be read is looked at as soon as it is there.
        assert!(Content::read(&path, None).has_changed());
        fs::remove_file(&path).unwrap();
        assert!(!Content::read(&path, None).has_changed());
    }

    #[test]
    fn the_way_leads_through_every_link_and_ends_in_a_loop() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().canonicalize().unwrap();
        fs::create_dir_all(real.join("a/b")).unwrap();
        symlink("a/b", real.join("link")).unwrap();
        symlink("../a/./../link/file", real.join("a/first")).unwrap();
        let way = Way::to(&real.join("a/first"));
        assert_eq!(way.directories, HashSet::from([real.join("a"), real.clone(), real.join("a/b")]));
        assert_eq!(way.names, HashSet::from(["first", "link", "file"].map(OsString::from)));
        symlink("loop", real.join("loop")).unwrap();
        assert!(Way::to(&real.join("loop")).directories.contains(&real));
    }
}
