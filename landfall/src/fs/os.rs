//! The parts of `fs` that name a system's own flags and calls.

pub(super) use system::{Root, is_plain_name, prepare};

#[cfg(unix)]
mod system {
    use std::ffi::{OsStr, OsString};
    use std::fs::{File, OpenOptions};
    use std::io;
    use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
    use std::os::unix::ffi::OsStrExt;
    use std::path::{Path, PathBuf};
    use std::time::{Duration, SystemTime};

    use crate::fs::SymbolicLinks;
    use crate::fs::directory::{Entry, link_refused, regular};
    use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat, openat, statat};

    pub(in crate::fs) fn prepare(_: &mut OpenOptions) {}

    /// For reading; without waiting for a pipe's other end, and without taking a terminal.
    fn flags() -> OFlags {
        OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY
    }

    /// Every name is only a name here, but for one that the system would cut short.
    pub(in crate::fs) fn is_plain_name(name: &OsStr) -> bool {
        !name.as_bytes().contains(&0)
    }

    /// The directory, open as long as this.
    pub(in crate::fs) struct Root {
        fd: OwnedFd,
        /// Without links in it, for where paths are walked.
        path: PathBuf,
        /// The system opens beneath a directory by itself.
        by_system: bool,
    }

    impl Root {
        pub(in crate::fs) fn open(path: &Path) -> io::Result<Self> {
            let path = path.canonicalize()?;
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::DIRECTORY;
            let fd = rustix::fs::open(&path, flags, Mode::empty())?;
            let by_system = open_by_system(fd.as_fd(), Path::new("."), SymbolicLinks::Refuse);
            Ok(Root {
                by_system: match by_system {
                    Ok(_) => true,
                    Err(error) if is_missing(&error) => false,
                    Err(error) => return Err(error),
                },
                fd,
                path,
            })
        }

        pub(in crate::fs) fn open_beneath(
            &self,
            path: &Path,
            links: SymbolicLinks,
        ) -> io::Result<(File, std::fs::Metadata)> {
            let fd = match self.by_system {
                true => open_by_system(self.fd.as_fd(), or_itself(path), links),
                false => self.walk(path, links),
            };
            let (file, metadata) = regular(File::from(fd?))?;
            if metadata.is_file() {
                // Asked for because of pipes. On a file, a ring takes it for a wish not to wait for
                // the disk, and file systems that cannot promise that would fail.
                rustix::fs::fcntl_setfl(&file, OFlags::empty())?;
            }
            Ok((file, metadata))
        }

        /// Opens what a path leads to, one component at a time, none of which may be a link.
        fn walk(&self, path: &Path, links: SymbolicLinks) -> io::Result<OwnedFd> {
            // As the system does.
            let last = match path.as_os_str().as_bytes().ends_with(b"/") {
                true => OFlags::DIRECTORY,
                false => OFlags::empty(),
            };
            let resolved = match links {
                SymbolicLinks::Refuse => None,
                SymbolicLinks::FollowBeneath => Some(self.path.join(path).canonicalize()?),
            };
            let path = match &resolved {
                None => path,
                Some(resolved) => resolved
                    .strip_prefix(&self.path)
                    .map_err(|_| link_refused())?,
            };
            let mut names = path.components().peekable();
            let mut at = openat(&self.fd, ".", flags() | OFlags::DIRECTORY, Mode::empty())?;
            while let Some(name) = names.next() {
                let flags = match names.peek() {
                    Some(_) => flags() | OFlags::NOFOLLOW | OFlags::DIRECTORY,
                    None => flags() | OFlags::NOFOLLOW | last,
                };
                let name: &Path = name.as_ref();
                at = match openat(&at, name, flags, Mode::empty()) {
                    Err(_) if is_link(at.as_fd(), name) => return Err(link_refused()),
                    opened => opened?,
                };
            }
            Ok(at)
        }

        pub(in crate::fs) fn list_beneath(
            &self,
            path: &Path,
            links: SymbolicLinks,
            mut take: impl FnMut(Entry) -> bool,
        ) -> io::Result<()> {
            let (directory, _) = self.open_beneath(path, links)?;
            for found in Dir::read_from(&directory)? {
                let name = OsStr::from_bytes(found?.file_name().to_bytes()).to_owned();
                if name == "." || name == ".." {
                    continue;
                }
                // Gone meanwhile, as a rule.
                let Ok(stat) = statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW) else {
                    continue;
                };
                let entry = match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Symlink if links == SymbolicLinks::Refuse => None,
                    FileType::Symlink => self.behind_link(&path.join(&name), name, links),
                    FileType::Directory => Some(entry(name, true, &stat)),
                    FileType::RegularFile => Some(entry(name, false, &stat)),
                    _ => None,
                };
                if entry.is_some_and(|entry| !take(entry)) {
                    break;
                }
            }
            Ok(())
        }

        /// What a link leads to, if that may be opened.
        fn behind_link(&self, path: &Path, name: OsString, links: SymbolicLinks) -> Option<Entry> {
            let (_, metadata) = self.open_beneath(path, links).ok()?;
            Some(Entry {
                name,
                is_directory: metadata.is_dir(),
                length: metadata.len(),
                modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            })
        }
    }

    fn or_itself(path: &Path) -> &Path {
        match path.as_os_str().is_empty() {
            true => Path::new("."),
            false => path,
        }
    }

    /// Systems say different things of one that is not to be followed.
    fn is_link(at: BorrowedFd<'_>, name: &Path) -> bool {
        let stat = statat(at, name, AtFlags::SYMLINK_NOFOLLOW);
        stat.is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::Symlink)
    }

    fn entry(name: OsString, is_directory: bool, stat: &Stat) -> Entry {
        // Signed or not, by the system.
        #[allow(clippy::unnecessary_cast, reason = "not on every system")]
        let seconds = stat.st_mtime as i64;
        let since = Duration::from_secs(seconds.unsigned_abs());
        let modified = match seconds < 0 {
            true => SystemTime::UNIX_EPOCH.checked_sub(since),
            false => SystemTime::UNIX_EPOCH.checked_add(since),
        };
        Entry {
            name,
            is_directory,
            length: u64::try_from(stat.st_size).unwrap_or(0),
            modified: modified.unwrap_or(SystemTime::UNIX_EPOCH),
        }
    }

    #[cfg(target_os = "linux")]
    fn open_by_system(
        root: BorrowedFd<'_>,
        path: &Path,
        links: SymbolicLinks,
    ) -> io::Result<OwnedFd> {
        use rustix::fs::{ResolveFlags, openat2};
        use rustix::io::Errno;

        /// Somebody renamed a directory on a path with `..` (in a link) just then.
        const ATTEMPTS: usize = 8;

        let mut resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        if links == SymbolicLinks::Refuse {
            resolve |= ResolveFlags::NO_SYMLINKS;
        }
        let mut attempt = 1;
        loop {
            match openat2(root, path, flags(), Mode::empty(), resolve) {
                Err(Errno::AGAIN | Errno::INTR) if attempt < ATTEMPTS => attempt += 1,
                Err(Errno::LOOP | Errno::XDEV) => return Err(link_refused()),
                opened => return Ok(opened?),
            }
        }
    }

    /// The system has no such call, or a container forbids it.
    fn is_missing(error: &io::Error) -> bool {
        use rustix::io::Errno;
        let missing =
            [Errno::NOSYS, Errno::PERM, Errno::INVAL, Errno::TOOBIG].map(Errno::raw_os_error);
        let code = error.raw_os_error();
        error.kind() == io::ErrorKind::Unsupported
            || code.is_some_and(|code| missing.contains(&code))
    }

    #[cfg(not(target_os = "linux"))]
    fn open_by_system(_: BorrowedFd<'_>, _: &Path, _: SymbolicLinks) -> io::Result<OwnedFd> {
        Err(io::ErrorKind::Unsupported.into())
    }

    #[cfg(all(test, not(loom)))]
    impl Root {
        /// As where the system does not help.
        pub(in crate::fs) fn without_help(mut self) -> Self {
            self.by_system = false;
            self
        }
    }
}

#[cfg(windows)]
mod system {
    use std::ffi::OsStr;
    use std::fs::{File, Metadata, OpenOptions};
    use std::io;
    use std::os::windows::fs::OpenOptionsExt;
    use std::path::{Path, PathBuf};
    use std::time::SystemTime;

    use crate::fs::SymbolicLinks;
    use crate::fs::directory::{Entry, link_refused, regular};

    /// `FILE_FLAG_OVERLAPPED`: without it a file takes one operation at a time, and no port.
    const OVERLAPPED: u32 = 0x4000_0000;
    /// `FILE_FLAG_BACKUP_SEMANTICS`: without it no directory is opened.
    const DIRECTORIES_TOO: u32 = 0x0200_0000;

    /// Names of devices in every directory, whatever follows a dot.
    /// <https://learn.microsoft.com/windows/win32/fileio/naming-a-file>
    const DEVICES: [&str; 6] = ["con", "prn", "aux", "nul", "conin$", "conout$"];
    /// Those with a digit behind them.
    const NUMBERED_DEVICES: [&str; 2] = ["com", "lpt"];

    pub(in crate::fs) fn prepare(options: &mut OpenOptions) {
        options.custom_flags(OVERLAPPED);
    }

    /// Whether a name stands for a file of that name: not for a device or a stream of a file, nor,
    /// by what the system leaves out or puts in, for another file.
    pub(in crate::fs) fn is_plain_name(name: &OsStr) -> bool {
        let Some(name) = name.to_str() else {
            return false;
        };
        let has_special = name
            .chars()
            .any(|c| c.is_control() || "<>:\"/\\|?*".contains(c));
        !has_special && !name.ends_with(['.', ' ']) && !is_device(name)
    }

    fn is_device(name: &str) -> bool {
        let stem = name.split('.').next().unwrap_or_default();
        let stem = stem.trim_end().to_lowercase();
        let mut letters = stem.chars();
        let last = letters.next_back();
        let is_number = last.is_some_and(|c| c.is_ascii_digit() || "¹²³".contains(c));
        DEVICES.contains(&&*stem) || is_number && NUMBERED_DEVICES.contains(&letters.as_str())
    }

    /// The directory.
    pub(in crate::fs) struct Root {
        /// Without links in it.
        path: PathBuf,
    }

    impl Root {
        pub(in crate::fs) fn open(path: &Path) -> io::Result<Self> {
            let path = path.canonicalize()?;
            match path.is_dir() {
                true => Ok(Root { path }),
                false => Err(io::ErrorKind::NotADirectory.into()),
            }
        }

        /// The full path of what is beneath, once links have been looked at.
        fn resolve(&self, path: &Path, links: SymbolicLinks) -> io::Result<PathBuf> {
            let resolved = self.path.join(path).canonicalize()?;
            if !resolved.starts_with(&self.path) {
                return Err(link_refused());
            }
            if links == SymbolicLinks::FollowBeneath {
                return Ok(resolved);
            }
            let mut full = self.path.clone();
            for name in path.components() {
                full.push(name);
                if full.symlink_metadata()?.is_symlink() {
                    return Err(link_refused());
                }
            }
            Ok(full)
        }

        pub(in crate::fs) fn open_beneath(
            &self,
            path: &Path,
            links: SymbolicLinks,
        ) -> io::Result<(File, Metadata)> {
            let mut options = OpenOptions::new();
            options.read(true).custom_flags(DIRECTORIES_TOO);
            regular(options.open(self.resolve(path, links)?)?)
        }

        pub(in crate::fs) fn list_beneath(
            &self,
            path: &Path,
            links: SymbolicLinks,
            mut take: impl FnMut(Entry) -> bool,
        ) -> io::Result<()> {
            for found in self.resolve(path, links)?.read_dir()? {
                let name = found?.file_name();
                if !is_plain_name(&name) {
                    continue;
                }
                // Gone meanwhile, or a link that is refused.
                let Ok((_, metadata)) = self.open_beneath(&path.join(&name), links) else {
                    continue;
                };
                let entry = Entry {
                    name,
                    is_directory: metadata.is_dir(),
                    length: metadata.len(),
                    modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                };
                if !take(entry) {
                    break;
                }
            }
            Ok(())
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn names_that_stand_for_something_else_are_refused() {
            let refused = [
                "nul", "NUL.txt", "Con", "com1", "COM¹.x", "lpt9.a.b", "aux ", "a:b", "c:", "a.",
                "a ", "a\\b", "a?", "conin$",
            ];
            for name in refused {
                assert!(!is_plain_name(OsStr::new(name)), "{name}");
            }
            for name in ["null", "com", "com10", "a.b", ".hidden", "con-text"] {
                assert!(is_plain_name(OsStr::new(name)), "{name}");
            }
        }
    }
}
