//! Errors: [`Errno`] on the I/O path, [`Error`] with a text elsewhere.

use std::fmt;

/// What an I/O request failed with: an error number of the host's kernel or
/// one chosen to mean the same. It is small and needs no allocation.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(pub i32);

impl Errno {
    /// An I/O error.
    pub const EIO: Self = Self(libc::EIO);
    /// A request outside the device, or one that is not a multiple of what the
    /// device asks for.
    pub const EINVAL: Self = Self(libc::EINVAL);
    /// No space left.
    pub const ENOSPC: Self = Self(libc::ENOSPC);
    /// Not allowed, such as writing to a read-only image.
    pub const EPERM: Self = Self(libc::EPERM);
    /// Not supported.
    pub const ENOTSUP: Self = Self(libc::ENOTSUP);

    /// The error of the last system call.
    pub fn last() -> Self {
        std::io::Error::last_os_error().into()
    }
}

impl From<std::io::Error> for Errno {
    fn from(error: std::io::Error) -> Self {
        Self(error.raw_os_error().unwrap_or(libc::EIO))
    }
}

/// The C library's words, such as "No space left on device".
impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = std::io::Error::from_raw_os_error(self.0).to_string();
        // std appends the number.
        f.write_str(text.split(" (os error").next().unwrap_or_default())
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "errno {} ({self})", self.0)
    }
}

impl std::error::Error for Errno {}

/// The result of an I/O request.
pub type IoResult<T> = Result<T, Errno>;

/// What opening, creating or changing an image failed with: the words for the
/// user, which are QEMU's where it has some, and the error number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Error {
    text: String,
    errno: Errno,
}

/// The result of opening, creating or changing an image.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of these words.
    pub fn new(errno: Errno, text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            errno,
        }
    }

    /// Something that the image or the user asks for and we do not do.
    pub fn unsupported(text: impl Into<String>) -> Self {
        Self::new(Errno::ENOTSUP, text)
    }

    /// Something that makes no sense.
    pub fn invalid(text: impl Into<String>) -> Self {
        Self::new(Errno::EINVAL, text)
    }

    /// `what`: and then what the system says.
    pub fn io(what: impl fmt::Display, errno: Errno) -> Self {
        Self::new(errno, format!("{what}: {errno}"))
    }

    /// The same error with words before it.
    #[must_use]
    pub fn within(self, what: impl fmt::Display) -> Self {
        Self {
            text: format!("{what}: {}", self.text),
            errno: self.errno,
        }
    }

    /// The error number.
    pub fn errno(&self) -> Errno {
        self.errno
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_systems_words() {
        assert_eq!(Errno::ENOSPC.to_string(), "No space left on device");
        let error = Error::io("Could not write", Errno::EIO).within("a.img");
        assert_eq!(
            error.to_string(),
            "a.img: Could not write: Input/output error"
        );
        assert_eq!(error.errno(), Errno::EIO);
    }
}
