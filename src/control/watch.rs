//! Watches the configuration file, and those of the certificate, by the folders they stand in, so that a rename over it and a swapped symbolic link are
//! seen as well as a write into it.

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::mpsc;

/// Symbolic links that are followed before a loop is suspected, as the kernel does (`path_resolution(7)`).
const LINKS_MAX: usize = 40;

/// How often it is looked whether the folders are still those that are watched. A folder that was replaced tells so
/// itself, but not when it was one above it, and the new one may come later.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(5);

/// A folder with links or the file in it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Folder {
    path: PathBuf,
    /// Device and inode, which tell it from another one under its name; `None` while it cannot be watched.
    identity: Option<(u64, u64)>,
}

/// A running watch.
pub(super) struct FileWatch {
    watcher: RecommendedWatcher,
    watched: Vec<Folder>,
    /// Paths whose change matters: links, the file, and the folders; shared with the callback of the watcher.
    names: Arc<Mutex<Vec<PathBuf>>>,
}

/// Starts watching; every change that may matter is sent. `None`, with a warning, when the system refuses.
pub(super) fn start(files: &[PathBuf], changed: mpsc::Sender<()>) -> Option<FileWatch> {
    let names: Arc<Mutex<Vec<PathBuf>>> = Arc::default();
    let known = Arc::clone(&names);
    let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        let matters = event.map_or(true, |event| {
            let names = known.lock().unwrap_or_else(PoisonError::into_inner);
            changes_content(event.kind) && event.paths.iter().any(|path| names.contains(path))
        });
        if matters {
            // A full channel already tells that something changed.
            let _ = changed.try_send(());
        }
    });
    match watcher {
        Ok(watcher) => {
            let mut watch = FileWatch { watcher, watched: Vec::new(), names };
            watch.follow(files);
            Some(watch)
        }
        Err(error) => {
            tracing::warn!(%error, "the configuration file cannot be watched; SIGHUP still reloads it");
            None
        }
    }
}

/// Reading the file is no change of it.
fn changes_content(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => true,
        EventKind::Access(_) => false,
        _ => true,
    }
}

impl FileWatch {
    /// Finds again what has to be watched, after links, files or folders were replaced. True when it is not what was
    /// watched before.
    pub(super) fn follow(&mut self, files: &[PathBuf]) -> bool {
        let absolute = |file: &PathBuf| std::path::absolute(file).unwrap_or_else(|_| file.clone());
        let mut names: Vec<PathBuf> =
            files.iter().flat_map(|file| links_and_file(&absolute(file))).collect();
        let mut paths: Vec<PathBuf> =
            names.iter().filter_map(|name| name.parent().map(Path::to_owned)).collect();
        paths.sort();
        paths.dedup();
        names.extend(paths.iter().cloned());
        *self.names.lock().unwrap_or_else(PoisonError::into_inner) = names;
        // Known before it is watched: one that is replaced in between is found at the next look.
        let found = paths.into_iter().map(|path| Folder { identity: identity(&path), path });
        let found: Vec<Folder> = found.collect();
        for gone in self.watched.iter().filter(|folder| !found.contains(folder)) {
            // A folder that was removed has lost its watch by itself.
            let _ = self.watcher.unwatch(&gone.path);
        }
        let before = std::mem::take(&mut self.watched);
        for mut folder in found {
            if folder.identity.is_none() || !before.contains(&folder) {
                self.watch(&mut folder, &before);
            }
            self.watched.push(folder);
        }
        self.watched != before
    }

    fn watch(&mut self, folder: &mut Folder, before: &[Folder]) {
        if let Err(error) = self.watcher.watch(&folder.path, RecursiveMode::NonRecursive) {
            folder.identity = None;
            if !before.contains(folder) {
                let folder = folder.path.display();
                tracing::warn!(%folder, %error, "this folder of the configuration file cannot be watched");
            }
        }
    }
}

fn identity(folder: &Path) -> Option<(u64, u64)> {
    fs::metadata(folder).ok().map(|found| (found.dev(), found.ino()))
}

/// Every symbolic link on the way to the file, and the file itself, each as a path whose folder holds no link.
fn links_and_file(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut resolved = PathBuf::from("/");
    let mut left = parts(path);
    while let Some(part) = left.pop() {
        if part == ".." {
            resolved.pop();
            continue;
        }
        let here = resolved.join(&part);
        match fs::read_link(&here) {
            Ok(target) if found.len() < LINKS_MAX => {
                found.push(here);
                if target.is_absolute() {
                    resolved = PathBuf::from("/");
                }
                left.extend(parts(&target));
            }
            _ => resolved = here,
        }
    }
    found.push(resolved);
    found
}

/// The components that lead somewhere, last one first.
fn parts(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    let mut names: Vec<OsString> = names.collect();
    names.reverse();
    names
}

#[cfg(test)]
mod tests {
    use super::links_and_file;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn every_link_on_the_way_is_watched_where_it_stands() {
        let folder = std::env::temp_dir().join(format!("vibewarden-watch-{}", std::process::id()));
        fs::create_dir_all(folder.join("..2026_01")).unwrap();
        let folder = fs::canonicalize(&folder).unwrap();
        fs::write(folder.join("..2026_01/vibewarden.yaml"), "").unwrap();
        symlink("..2026_01", folder.join("..data")).unwrap();
        symlink("..data/vibewarden.yaml", folder.join("vibewarden.yaml")).unwrap();
        let found = links_and_file(&folder.join("vibewarden.yaml"));
        let expected = ["vibewarden.yaml", "..data", "..2026_01/vibewarden.yaml"];
        assert_eq!(found, expected.map(|name| folder.join(name)));
        fs::remove_dir_all(&folder).unwrap();
    }
}
