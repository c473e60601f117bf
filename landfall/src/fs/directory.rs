//! A directory that files are opened beneath.

use std::ffi::OsString;
use std::fmt;
use std::fs::{File, Metadata};
use std::io;
use std::path::{Component, Path};
use std::time::SystemTime;

use super::os;

/// A directory that files are opened beneath, and nowhere else, whatever a stranger asks for.
///
/// On Linux the system itself keeps to that (`openat2`); where it cannot, and on other Unix systems,
/// a path is walked from the open directory one component at a time. Both hold also while somebody
/// renames directories or swaps them for links. Windows has no such calls here: there a path is
/// looked at first and opened then, so whoever may put links into the directory at that moment can
/// lead out of it.
///
/// Calls wait for the disk, as those of the standard library do.
///
/// ```
/// use landfall::fs::{Directory, SymbolicLinks};
///
/// let directory = Directory::open("src", SymbolicLinks::Refuse)?;
/// let (_file, metadata) = directory.open_beneath("lib.rs")?;
/// assert!(metadata.is_file());
/// assert!(directory.open_beneath("../Cargo.toml").is_err());
/// # Ok::<(), std::io::Error>(())
/// ```
pub struct Directory {
    root: os::Root,
    links: SymbolicLinks,
}

/// What becomes of symbolic links below a [`Directory`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SymbolicLinks {
    /// A path that goes through one is refused.
    Refuse,
    /// They are followed as long as they lead to what is beneath the directory. On Linux absolute ones
    /// never are; elsewhere they are if they lead there.
    FollowBeneath,
}

/// What a directory has, as [`Directory::list_beneath`] finds it.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct Entry {
    /// Its name, without a path.
    pub name: OsString,
    /// A directory; otherwise a regular file.
    pub is_directory: bool,
    /// Of a file, in bytes.
    pub length: u64,
    /// When it was last changed; the beginning of 1970 where the system does not say.
    pub modified: SystemTime,
}

impl Directory {
    /// Opens a directory. Its own path may go through symbolic links.
    ///
    /// # Errors
    ///
    /// What the system answers; [`NotADirectory`](io::ErrorKind::NotADirectory).
    pub fn open(path: impl AsRef<Path>, links: SymbolicLinks) -> io::Result<Self> {
        Ok(Directory {
            root: os::Root::open(path.as_ref())?,
            links,
        })
    }

    /// Opens a regular file or a directory for reading; an empty path is the directory itself.
    ///
    /// A pipe, a device or a socket is refused, without waiting for whoever has its other end.
    ///
    /// # Errors
    ///
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) for a path with `..`, a root, a prefix or a zero
    /// byte, and on Windows for names that stand for something else there (`NUL`, `a:b`, `a.`).
    /// [`PermissionDenied`](io::ErrorKind::PermissionDenied) where a link is refused or leads out, and
    /// for what is neither a file nor a directory. Otherwise what the system answers.
    pub fn open_beneath(&self, path: impl AsRef<Path>) -> io::Result<(File, Metadata)> {
        let path = path.as_ref();
        check(path)?;
        self.root.open_beneath(path, self.links)
    }

    /// The files and directories that a directory beneath has, in no order, `most` of them at most,
    /// and whether these are all. Those that [`open_beneath`](Self::open_beneath) would refuse for
    /// what they are, are left out.
    ///
    /// # Errors
    ///
    /// As [`open_beneath`](Self::open_beneath).
    pub fn list_beneath(
        &self,
        path: impl AsRef<Path>,
        most: usize,
    ) -> io::Result<(Vec<Entry>, bool)> {
        let path = path.as_ref();
        check(path)?;
        let mut entries = Vec::new();
        let mut is_complete = true;
        self.root.list_beneath(path, self.links, |entry| {
            is_complete = entries.len() < most;
            if is_complete {
                entries.push(entry);
            }
            is_complete
        })?;
        Ok((entries, is_complete))
    }
}

impl fmt::Debug for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Directory")
            .field("links", &self.links)
            .finish_non_exhaustive()
    }
}

/// Refuses a path that could name anything but what is beneath.
fn check(path: &Path) -> io::Result<()> {
    for component in path.components() {
        let is_name = match component {
            Component::Normal(name) => os::is_plain_name(name),
            Component::CurDir => true,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => false,
        };
        if !is_name {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the path does not name what is beneath the directory",
            ));
        }
    }
    Ok(())
}

/// A symbolic link was met, or leads out.
pub(super) fn link_refused() -> io::Error {
    io::Error::new(
        io::ErrorKind::PermissionDenied,
        "a symbolic link on the path is refused, or leads out of the directory",
    )
}

/// What was opened, if it is of a kind that may be.
pub(super) fn regular(file: File) -> io::Result<(File, Metadata)> {
    let metadata = file.metadata()?;
    if metadata.is_file() || metadata.is_dir() {
        return Ok((file, metadata));
    }
    Err(io::Error::new(
        io::ErrorKind::PermissionDenied,
        "it is neither a regular file nor a directory",
    ))
}

#[cfg(all(test, unix, not(loom)))]
mod tests {
    use std::fs;
    use std::io::{ErrorKind, Read};
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;
    use std::process;
    use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
    use std::thread;

    use super::*;

    /// A directory beside a file that is not beneath it.
    struct Place(PathBuf);

    impl Place {
        fn new() -> Self {
            static COUNT: AtomicUsize = AtomicUsize::new(0);
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let name = format!("landfall-directory-{}-{number}", process::id());
            let place = std::env::temp_dir().join(name);
            fs::create_dir_all(place.join("root/sub")).expect("a temporary directory");
            fs::write(place.join("secret"), "secret").expect("a file");
            fs::write(place.join("root/sub/file"), "public").expect("a file");
            Place(place)
        }

        fn root(&self) -> PathBuf {
            self.0.join("root")
        }

        /// As the system opens, and as it is done where the system does not help.
        fn both(&self, links: SymbolicLinks) -> [Directory; 2] {
            let open = || Directory::open(self.root(), links).expect("opens");
            let mut walking = open();
            walking.root = walking.root.without_help();
            [open(), walking]
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).expect("is there");
        }
    }

    /// What a file had at some thousand tries, and at many more if it had never been there.
    fn texts_of(directory: &Directory, path: &str) -> Vec<String> {
        let mut texts = Vec::new();
        for tried in 0..1_000_000 {
            if tried >= 2_000 && !texts.is_empty() {
                break;
            }
            texts.extend(text(directory.open_beneath(path)));
        }
        texts
    }

    fn text(opened: io::Result<(File, Metadata)>) -> Result<String, ErrorKind> {
        let mut text = String::new();
        let (mut file, _) = opened.map_err(|error| error.kind())?;
        file.read_to_string(&mut text)
            .map_err(|error| error.kind())?;
        Ok(text)
    }

    #[test]
    fn files_beneath_are_opened_and_nothing_else_can_be_named() {
        let place = Place::new();
        for directory in place.both(SymbolicLinks::Refuse) {
            let open = |path: &str| text(directory.open_beneath(path));
            assert_eq!(open("sub/file").as_deref(), Ok("public"));
            let (_, itself) = directory.open_beneath("").expect("itself");
            assert!(itself.is_dir());
            assert_eq!(open("sub/missing"), Err(ErrorKind::NotFound));
            assert_eq!(open("sub/file/below"), Err(ErrorKind::NotADirectory));
            let absolute = place.0.join("secret");
            let outside = ["..", "../secret", "sub/../../secret", "/", "sub/\0"];
            for path in outside.into_iter().chain(absolute.to_str()) {
                assert_eq!(open(path), Err(ErrorKind::InvalidInput), "{path:?}");
            }
        }
    }

    #[test]
    fn links_are_refused_or_followed_as_far_as_they_stay_beneath() {
        let place = Place::new();
        let root = place.root();
        symlink("sub", root.join("beneath")).expect("a link");
        symlink("../root/sub", root.join("around")).expect("a link");
        symlink("../secret", root.join("out")).expect("a link");
        symlink(place.0.join("secret"), root.join("far")).expect("a link");
        symlink("loop", root.join("loop")).expect("a link");
        for directory in place.both(SymbolicLinks::Refuse) {
            for path in [
                "beneath",
                "beneath/file",
                "around/file",
                "out",
                "far",
                "loop",
            ] {
                let opened = text(directory.open_beneath(path));
                assert_eq!(opened, Err(ErrorKind::PermissionDenied), "{path}");
            }
        }
        for directory in place.both(SymbolicLinks::FollowBeneath) {
            let open = |path: &str| text(directory.open_beneath(path));
            assert_eq!(open("beneath/file").as_deref(), Ok("public"));
            for path in ["out", "far"] {
                assert_eq!(open(path), Err(ErrorKind::PermissionDenied), "{path}");
            }
            assert!(open("loop").is_err());
        }
    }

    #[test]
    fn a_pipe_is_refused_and_not_waited_for() {
        let place = Place::new();
        let pipe = place.root().join("pipe");
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let kind = rustix::fs::FileType::Fifo;
        #[cfg(not(target_vendor = "apple"))]
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, kind, mode, 0).expect("a pipe");
        for directory in place.both(SymbolicLinks::Refuse) {
            let opened = text(directory.open_beneath("pipe"));
            assert_eq!(opened, Err(ErrorKind::PermissionDenied));
        }
    }

    #[test]
    fn a_directory_lists_what_it_would_open() {
        let place = Place::new();
        let root = place.root();
        fs::write(root.join("file"), "12345").expect("a file");
        symlink("sub/file", root.join("in")).expect("a link");
        symlink("../secret", root.join("out")).expect("a link");
        let names = |links, most| {
            place.both(links).map(|directory| {
                let (mut entries, is_complete) = directory.list_beneath("", most).expect("lists");
                entries.sort_by(|one, other| one.name.cmp(&other.name));
                let shown = |entry: Entry| {
                    let name = entry.name.to_string_lossy().into_owned();
                    (name, entry.is_directory, entry.length)
                };
                let shown: Vec<_> = entries.into_iter().map(shown).collect();
                (shown, is_complete)
            })
        };
        let file = (String::from("file"), false, 5);
        for (entries, is_complete) in names(SymbolicLinks::Refuse, 2) {
            assert!(is_complete);
            assert_eq!(entries[0], file);
            assert_eq!(
                (&*entries[1].0, entries[1].1, entries.len()),
                ("sub", true, 2)
            );
        }
        for (entries, is_complete) in names(SymbolicLinks::FollowBeneath, 9) {
            let names: Vec<_> = entries.iter().map(|(name, ..)| &**name).collect();
            assert_eq!((names, is_complete), (vec!["file", "in", "sub"], true));
            assert_eq!(entries[1].2, 6, "the length of what it leads to");
        }
        for (entries, is_complete) in names(SymbolicLinks::Refuse, 1) {
            assert_eq!((entries.len(), is_complete), (1, false));
        }
    }

    #[test]
    fn nobody_who_swaps_a_directory_for_a_link_leads_out() {
        let place = Place::new();
        let root = place.root();
        let (path, aside, link) = (root.join("sub"), root.join("aside"), root.join("link"));
        fs::write(place.0.join("file"), "secret").expect("a file");
        symlink("..", &link).expect("a link");
        let done = AtomicBool::new(false);
        let mut texts = Vec::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    let steps = [
                        (&path, &aside),
                        (&link, &path),
                        (&path, &link),
                        (&aside, &path),
                    ];
                    for (from, to) in steps {
                        fs::rename(from, to).expect("renames");
                    }
                }
            });
            for links in [SymbolicLinks::Refuse, SymbolicLinks::FollowBeneath] {
                for directory in place.both(links) {
                    texts.push(texts_of(&directory, "sub/file"));
                }
            }
            done.store(true, Ordering::Relaxed);
        });
        for texts in texts {
            assert!(!texts.is_empty(), "it was there at times");
            assert!(texts.iter().all(|text| text == "public"));
        }
    }
}
