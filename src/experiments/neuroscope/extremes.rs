//! The tokens with the largest and the smallest values of a channel.

use super::Reading;

/// A token that is worth showing.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// Its value.
    pub value: f32,
    /// Number of its document.
    pub document: usize,
    /// Position in the document, BOS not counted.
    pub position: usize,
    /// The token.
    pub token: u32,
    /// It and its neighbours.
    pub window: Vec<u32>,
}

impl Found {
    pub(super) fn new(reading: &Reading<'_>, channel: usize, width: usize) -> Self {
        Self {
            value: reading.values[channel],
            document: reading.document(),
            position: reading.position(),
            token: reading.token(),
            window: reading.window(width).to_vec(),
        }
    }
}

/// The `k` largest and the `k` smallest values of one channel; of equal windows, the first alone.
#[derive(Debug, Clone, PartialEq)]
pub struct Extremes {
    channel: usize,
    k: usize,
    width: usize,
    largest: Vec<Found>,
    smallest: Vec<Found>,
}

impl Extremes {
    /// None yet; `width` tokens on either side are shown.
    pub fn new(channel: usize, k: usize, width: usize) -> Self {
        Self { channel, k, width, largest: Vec::new(), smallest: Vec::new() }
    }

    /// Looks at a token.
    pub fn add(&mut self, reading: &Reading<'_>) {
        let (channel, k, width) = (self.channel, self.k, self.width);
        keep(&mut self.largest, k, reading, (channel, width), 1.0);
        keep(&mut self.smallest, k, reading, (channel, width), -1.0);
    }

    /// From the largest down.
    pub fn largest(&self) -> &[Found] {
        &self.largest
    }

    /// From the smallest up.
    pub fn smallest(&self) -> &[Found] {
        &self.smallest
    }
}

/// Puts a token into its place among the `k` with the largest `sign * value`.
fn keep(list: &mut Vec<Found>, k: usize, reading: &Reading<'_>, (channel, width): (usize, usize), sign: f32) {
    let value = sign * reading.values[channel];
    let place = list.partition_point(|other| sign * other.value >= value);
    if place >= k || list.iter().any(|other| other.value * sign >= value && other.window == reading.window(width)) {
        return;
    }
    list.insert(place, Found::new(reading, channel, width));
    // The same words with a smaller value give way.
    let window = list[place].window.clone();
    let mut number = 0;
    list.retain(|other| {
        number += 1;
        number - 1 <= place || other.window != window
    });
    list.truncate(k);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiments::corpus::Row;

    #[test]
    fn the_ends_are_found_once_each_in_order() {
        let row = Row { document: 3, start: 10, tokens: vec![0, 5, 6, 7, 8], bos: 1 };
        let mut extremes = Extremes::new(1, 2, 1);
        for (index, value) in [(1, 0.5), (2, -2.0), (3, 3.0), (4, 1.0), (3, 4.0), (3, 3.5)] {
            extremes.add(&Reading { row: &row, index, values: &[9.0, value] });
        }
        let shown = |list: &[Found]| list.iter().map(|found| (found.value, found.position)).collect::<Vec<_>>();
        assert_eq!(shown(extremes.largest()), [(4.0, 12), (1.0, 13)]);
        assert_eq!(shown(extremes.smallest()), [(-2.0, 11), (0.5, 10)]);
        assert_eq!(
            (extremes.largest()[0].window.clone(), extremes.smallest()[1].window.clone()),
            (vec![6, 7, 8], vec![5, 6])
        );
        assert_eq!((extremes.largest()[0].document, extremes.largest()[0].token), (3, 7));
    }
}
