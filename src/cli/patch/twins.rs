//! Options that put ablated twins of the clean prompts in the place of the corrupted ones.

use crate::experiments::ablation::Replacement;
use crate::studies::Twin;

/// Arguments of an ablation that the clean run is compared with.
#[derive(Debug, Clone, clap::Args)]
pub struct TwinArgs {
    /// Take the clean prompts' own run without this direction in the place of the corrupted one: what carries the effect of
    /// its ablation? Named as in ablation: das_simple_train_ADJ is every layer's own in front of its block,
    /// das_simple_train_ADJ_layer2 the same one everywhere.
    #[arg(long, value_name = "DIRECTION")]
    ablate: Option<String>,
    /// Layers at which it is ablated (the number of layers stands for the end); all that are there without it.
    #[arg(long, allow_hyphen_values = true, value_name = "LAYERS", value_delimiter = ',', requires = "ablate")]
    ablate_layers: Vec<String>,
    /// What takes its place: zero, mean (over the prompts, at each position), mean_over_places (one mean),
    /// mean_of_other_class.
    #[arg(long, value_name = "METHOD", default_value_t = Twin::default().ablate_method, requires = "ablate")]
    ablate_method: Replacement,
    /// Positions at which it is ablated: as in ablation.
    #[arg(long, allow_hyphen_values = true, value_name = "POSITIONS", default_value_t = Twin::default().ablate_positions, requires = "ablate")]
    ablate_positions: String,
}

impl From<TwinArgs> for Twin {
    fn from(args: TwinArgs) -> Self {
        let TwinArgs { ablate, ablate_layers, ablate_method, ablate_positions } = args;
        Twin { ablate, ablate_layers, ablate_method, ablate_positions }
    }
}
