//! Signals that ask a sweep to stop.

use signal_hook::consts::{SIGINT, SIGTERM};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// SIGUSR1 is what batch systems can be told to send ahead of a preemption.
#[cfg(unix)]
const SIGNALS: [i32; 3] = [SIGINT, SIGTERM, signal_hook::consts::SIGUSR1];
#[cfg(not(unix))]
const SIGNALS: [i32; 2] = [SIGINT, SIGTERM];

/// Hears SIGINT, SIGTERM and SIGUSR1: the first asks to stop once the running batch is recorded, a second one ends the
/// process at once.
#[derive(Debug, Clone)]
pub struct Stop {
    asked: Arc<AtomicBool>,
}

impl Stop {
    /// The code a process exits with when it has stopped early and the same command would go on: EX_TEMPFAIL of
    /// sysexits.h.
    pub const EXIT_CODE: u8 = 75;

    /// Starts listening.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn listen() -> io::Result<Self> {
        let asked = Arc::new(AtomicBool::new(false));
        for signal in SIGNALS {
            // In this order: the first signal finds the flag down, passes by, and raises it.
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, asked.clone())?;
            signal_hook::flag::register(signal, asked.clone())?;
        }
        Ok(Self { asked })
    }

    /// Was a stop asked for?
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}
