//! The tokens at one end of a channel's values.

use super::{Found, Reading};

/// The `k` largest or the `k` smallest values of one channel; of equal windows, the one that lies farthest out.
#[derive(Debug, Clone, PartialEq)]
pub struct Top {
    channel: usize,
    k: usize,
    width: usize,
    /// 1 for the largest, -1 for the smallest.
    sign: f32,
    found: Vec<Found>,
}

impl Top {
    /// None yet; `width` tokens on either side are shown.
    pub fn new(channel: usize, k: usize, width: usize, largest: bool) -> Self {
        Self { channel, k, width, sign: if largest { 1.0 } else { -1.0 }, found: Vec::new() }
    }

    /// Looks at a token.
    pub fn add(&mut self, reading: &Reading<'_>) {
        let value = self.sign * reading.values()[self.channel];
        let place = self.found.partition_point(|other| self.sign * other.value() >= value);
        if place >= self.k {
            return;
        }
        let found = reading.found(self.channel, self.width);
        match self.found.iter().position(|other| other.tokens == found.tokens) {
            Some(same) if same < place => return,
            Some(same) => drop(self.found.remove(same)),
            None => {}
        }
        self.found.insert(place, found);
        self.found.truncate(self.k);
    }

    /// From the outermost inwards.
    pub fn found(&self) -> &[Found] {
        &self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiments::corpus::Row;

    #[test]
    fn the_ends_are_found_once_each_in_order() {
        let row = Row { document: 3, start: 10, tokens: vec![0, 5, 6, 7, 8], bos: 1 };
        let mut ends = [true, false].map(|largest| Top::new(1, 2, 1, largest));
        for (index, value) in [(1, 0.5), (2, -2.0), (3, 3.0), (4, 1.0), (3, 4.0), (3, 3.5)] {
            let mut values = [9.0; 10];
            values[2 * index + 1] = value;
            let reading = Reading { row: &row, index, values: &values };
            ends.iter_mut().for_each(|end| end.add(&reading));
        }
        let [largest, smallest] = ends.each_ref().map(Top::found);
        let shown = |list: &[Found]| list.iter().map(|found| (found.value(), found.position)).collect::<Vec<_>>();
        assert_eq!(shown(largest), [(4.0, 12), (1.0, 13)]);
        assert_eq!(shown(smallest), [(-2.0, 11), (0.5, 10)]);
        assert_eq!((&largest[0].tokens[..], &smallest[1].tokens[..]), (&[6, 7, 8][..], &[5, 6][..]));
        assert_eq!((largest[0].document, largest[0].token(), &largest[0].values[..]), (3, 7, &[9.0, 4.0, 9.0][..]));
    }
}
