//! Signals that ask a command to stop.

use super::runner::tell;
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// SIGUSR1 is what batch systems can be told to send ahead of a preemption.
#[cfg(unix)]
const SIGNALS: [i32; 3] = [SIGINT, SIGTERM, signal_hook::consts::SIGUSR1];
#[cfg(not(unix))]
const SIGNALS: [i32; 2] = [SIGINT, SIGTERM];

/// The code a process exits with when it has stopped early and the same command would go on: EX_TEMPFAIL of sysexits.h.
pub const EXIT_CODE: u8 = 75;

/// Hears SIGINT, SIGTERM and SIGUSR1: the first asks to stop once the running batch is recorded, or the running step of a fit
/// done; a second one ends the process at once.
#[derive(Debug, Clone)]
pub struct Stop {
    asked: Arc<AtomicBool>,
}

impl Stop {
    /// Listens from the first call on: what was asked for during one sweep of a process holds for those behind it.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn listen() -> io::Result<Self> {
        static LISTENING: OnceLock<Stop> = OnceLock::new();
        if let Some(stop) = LISTENING.get() {
            return Ok(stop.clone());
        }
        let asked = Arc::new(AtomicBool::new(false));
        for signal in SIGNALS {
            // In this order: the first signal finds the flag down, passes by, and raises it.
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, asked.clone())?;
            signal_hook::flag::register(signal, asked.clone())?;
        }
        #[cfg(unix)]
        tell_of_the_first()?;
        Ok(LISTENING.get_or_init(|| Self { asked }).clone())
    }

    /// Was a stop asked for?
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }
}

/// Says that the first signal was heard: a batch of a large model takes its time.
///
/// # Errors
/// Those of the operating system.
#[cfg(unix)]
fn tell_of_the_first() -> io::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new(SIGNALS)?;
    let wait = move || {
        if signals.forever().next().is_some() {
            tell("stopping behind the running batch; a second signal ends the program at once");
        }
    };
    std::thread::Builder::new().name("signals".into()).spawn(wait).map(drop)
}
