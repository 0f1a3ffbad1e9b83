//! Everything that a user can feed the program, changed at random: it is read or refused with a message, without a panic,
//! without hanging, and without memory out of proportion.
//!
//! Every target runs for `ACTPATCH_MUTATION_SECONDS` (1 without it), or until `ACTPATCH_MUTATION_COUNT` changes were fed.
//! `ACTPATCH_MUTATION_SEED` begins another sequence of changes; what was fed last stands in the message of a failure.

#[path = "support/memory.rs"]
mod memory;
#[macro_use]
#[path = "support/targets.rs"]
mod targets;

use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use std::time::{Duration, Instant};
use targets::Target;

/// What reading may have in use at once beside [`SHARE`] of what is read: the other files of a model's folder, a pattern of a
/// tokenizer with all letters there are, the table of an array's numbers.
const MEMORY: usize = 8 << 20;

/// No thread asks for more at once, whatever counts lie.
const LARGEST: usize = 64 << 20;

/// Bytes for every byte that is fed.
const SHARE: usize = 10;

/// A change that takes longer to read than this hangs: seeds take milliseconds.
const LONGEST: Duration = Duration::from_secs(30);

/// Pieces that files lie with.
const PIECES: [&[u8]; 28] = [
    b"0",
    b"-1",
    b"1",
    b"18446744073709551615",
    b"-9223372036854775808",
    b"1e308",
    b"NaN",
    b"null",
    b"true",
    b"[]",
    b"{}",
    b"\"\"",
    b"\"",
    b",",
    b":",
    b"[[",
    b"{\"",
    b"\0",
    &[0; 8],
    &[0xFF; 8],
    &(1u64 << 60).to_le_bytes(),
    &(1u32 << 31).to_le_bytes(),
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\r\n",
    b"..",
    b"*",
    "é\u{202e}😀".as_bytes(),
];

/// One seed, or two of them spliced, with a few changes.
fn mutated(seeds: &[Vec<u8>], random: &mut ChaCha8Rng) -> Vec<u8> {
    let any = |random: &mut ChaCha8Rng| seeds[random.random_range(0..seeds.len())].clone();
    let mut bytes = any(random);
    if random.random_ratio(1, 10) {
        let other = any(random);
        let (end, start) = (random.random_range(0..=bytes.len()), random.random_range(0..=other.len()));
        bytes.truncate(end);
        bytes.extend(&other[start..]);
    }
    for _ in 0..random.random_range(1..=4) {
        // Long files say in their first part what the rest is.
        let head = if random.random_ratio(3, 4) { bytes.len().min(4096) } else { bytes.len() };
        let at = random.random_range(0..=head);
        let end = (at + random.random_range(0..=16)).min(bytes.len());
        match random.random_range(0..6) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => {
                let twice = bytes[at..end].to_vec();
                bytes.splice(at..at, twice);
            }
            3 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            4 if at < bytes.len() => bytes[at] = random.next_u32() as u8,
            _ => {
                let piece = PIECES[random.random_range(0..PIECES.len())];
                let over = if random.random() { at..end } else { at..at };
                bytes.splice(over, piece.iter().copied());
            }
        }
    }
    bytes
}

/// Feeds a target with its seeds and with changes of them.
#[track_caller]
fn feed(name: &str, target: fn() -> Target) {
    let number = |variable: &str| std::env::var(variable).ok().map(|text| text.parse().unwrap());
    let seconds = Duration::from_secs(number("ACTPATCH_MUTATION_SECONDS").unwrap_or(1));
    let most = number("ACTPATCH_MUTATION_COUNT").unwrap_or(u64::MAX);
    let mut random = ChaCha8Rng::seed_from_u64(number("ACTPATCH_MUTATION_SEED").unwrap_or(0));
    let Target { seeds, mut read } = target();
    let (start, mut count, mut taken_for_good) = (Instant::now(), 0u64, 0u64);
    let (mut memory, mut longest) = (0, Duration::ZERO);
    while count < seeds.len() as u64 || (count < most && start.elapsed() < seconds) {
        let bytes = seeds.get(count as usize).cloned().unwrap_or_else(|| mutated(&seeds, &mut random));
        let begun = Instant::now();
        let work = std::panic::AssertUnwindSafe(|| memory::measured(|| read(&bytes)));
        let outcome = std::panic::catch_unwind(work);
        let taken = begun.elapsed();
        let fed = || format!("{name}, change {count}: {:?}", String::from_utf8_lossy(&bytes));
        let Ok((good, used)) = outcome else { panic!("a panic: {}", fed()) };
        assert!(taken < LONGEST, "{taken:?}: {}", fed());
        assert!(used <= MEMORY + SHARE * bytes.len(), "{used} bytes in use: {}", fed());
        (memory, longest) = (used.max(memory), taken.max(longest));
        (count, taken_for_good) = (count + 1, taken_for_good + u64::from(good));
        // Changes of what is refused as it is would say little.
        assert!(taken_for_good > 0 || count < seeds.len() as u64, "{name}: no seed is read");
    }
    assert!(memory::largest() < LARGEST, "{name}: a piece of {} bytes", memory::largest());
    println!(
        "{name}: {count} changes in {:.0?}, {taken_for_good} read, the slowest {longest:.0?}, at most {} KiB in use",
        start.elapsed(),
        memory >> 10
    );
}

macro_rules! fed {
    ($($target:ident),*) => {
        $(
            #[test]
            fn $target() {
                feed(stringify!($target), targets::$target);
            }
        )*
    };
}
targets!(fed);

#[test]
fn cargo_fuzz_has_the_same_targets() {
    let manifest: toml::Table = include_str!("../fuzz/Cargo.toml").parse().unwrap();
    let names = manifest["bin"].as_array().unwrap().iter().map(|bin| bin["name"].as_str().unwrap());
    let names: Vec<&str> = names.filter(|name| *name != "seeds").collect();
    assert_eq!(names, targets::ALL.iter().map(|(name, _)| *name).collect::<Vec<_>>());
}
