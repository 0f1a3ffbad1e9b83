//! Why a transfer failed, in words, and whether another attempt may end better.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

/// Why an attempt failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// No connection, or no answer over it.
    Unreachable {
        /// Why.
        reason: String,
        /// Another attempt would end the same way.
        lasting: bool,
    },
    /// An answer that is none of the expected ones.
    Status {
        /// The HTTP status.
        status: u16,
        /// The host that answered, if a redirect led to another one.
        elsewhere: Option<String>,
        /// How long the server asks to wait.
        retry_after: Option<Duration>,
    },
    /// The server asks for a longer wait than is allowed.
    Pause {
        /// The HTTP status.
        status: u16,
        /// The wait it asks for.
        asked: Duration,
        /// The longest one allowed.
        longest: Duration,
    },
    /// The transfer ended before the file did.
    Broken {
        /// The announced size.
        expected: u64,
        /// The bytes there are.
        found: u64,
        /// How it ended.
        reason: String,
    },
    /// More bytes are announced than the caller allows.
    TooLarge {
        /// The announced size.
        found: u64,
        /// The largest one allowed.
        largest: u64,
    },
    /// An answer that cannot be used, or an address that cannot be asked.
    Answer {
        /// What would do.
        expected: String,
        /// What there is.
        found: String,
    },
    /// The part cannot be written.
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl Failure {
    /// May another attempt end better?
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { lasting, .. } => !lasting,
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500..=599),
            Self::Broken { .. } => true,
            Self::Pause { .. } | Self::TooLarge { .. } | Self::Answer { .. } | Self::File { .. } => false,
        }
    }

    pub(super) fn answer(expected: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Answer { expected: expected.into(), found: found.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable { reason, .. } => formatter.write_str(reason),
            Self::Status { status, elsewhere: None, .. } => write!(formatter, "HTTP {status}"),
            Self::Status { status, elsewhere: Some(host), .. } => write!(formatter, "HTTP {status} from {host}"),
            Self::Pause { status, asked, longest } => {
                let (asked, longest) = (humantime::format_duration(*asked), humantime::format_duration(*longest));
                write!(formatter, "HTTP {status}, and asks to wait {asked} (Retry-After), more than {longest}")
            }
            Self::Broken { expected, found, reason } => write!(formatter, "{found} of {expected} bytes came: {reason}"),
            Self::TooLarge { found, largest } => write!(formatter, "expected at most {largest} bytes, found {found}"),
            Self::Answer { expected, found } => write!(formatter, "expected {expected}, found {found}"),
            Self::File { path, source } => write!(formatter, "{}: {source}", path.display()),
        }
    }
}

/// What ended a request for good.
#[derive(Debug)]
pub(crate) struct TransferError {
    /// The address, as it may be shown.
    pub url: String,
    /// How often it was tried.
    pub attempts: u32,
    /// Why the last attempt failed.
    pub failure: Failure,
}

impl TransferError {
    /// The failure in words, with the number of attempts.
    pub fn reason(&self) -> String {
        match self.attempts {
            1 => self.failure.to_string(),
            attempts => format!("{}; {attempts} attempts", self.failure),
        }
    }
}
