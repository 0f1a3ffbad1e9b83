//! Plain texts: what is read in them along directions, what ablation costs on them, and what is written under steering.

mod corpus;
mod found;
mod label_shares;
mod losses_by_token;
mod negation;
mod neuroscope;
mod steering;
mod text_loss;

pub use corpus::Corpus;
pub use label_shares::{LabelShares, LabelledShares};
pub use negation::{Negation, Negations, ScoreRow};
pub use neuroscope::{Neuroscope, Readings};
pub use steering::PROMPT;
pub use steering::{Coefficients, SteeredDirection, Steering, Texts};
pub use text_loss::TEXT_METHODS;
pub use text_loss::TextLoss;

use crate::files::sha256;

/// The hash of a direction.
fn hash_of_direction(direction: &[f32]) -> String {
    sha256(bytemuck::cast_slice(direction))
}
