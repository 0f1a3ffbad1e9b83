//! `ablation`.

use crate::cli::args::MapArgs;
use crate::cli::choice::choice;
use crate::cli::runner;
use crate::experiments::ablation::Replacement;
use crate::experiments::path_patching::NodePattern;
use crate::studies::{Ablation, Attention};
use anyhow::Result;

/// Arguments of `ablation`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  actpatch ablation --nodes z:1.0,z:1.2,mlp_out:0 --methods zero,mean,resample
  actpatch ablation --directions kmeans_simple_train_ADJ --positions ALL,ADJ --attention live,frozen --random 3
  actpatch ablation --eval-sets treebank_test --scaffold classification --directions das_simple_train_ADJ \\
      --positions COMMA,ALL --require COMMA --correct-only --balance
  actpatch ablation --eval-sets mood_stories --nodes v:1,v:2 --methods corrupted --attention frozen \\
      --positions NAME1+VRB1+NAME2+VRB2 --keep-at COMMA1+STOP1+COMMA2+STOP2

The nodes of a run are ablated together; so are a direction's layers. Of nodes and a direction, the nodes' part along the
direction (of z, the heads' results).
Files in DATA_DIR/<model>/: ablation_<dataset>_<scaffold>.csv, to which every run adds its rows, and .svg, .png, .pdf and .html.")]
pub struct Args {
    #[command(flatten)]
    shared: MapArgs,
    /// Nodes to ablate together, as in path-patching: z:9.2 is a head, mlp_out:3 an MLP, v:4 all values of a layer.
    #[arg(long, value_delimiter = ',')]
    nodes: Vec<NodePattern>,
    /// Directions to ablate: das_simple_train_ADJ is every layer's own in front of its block, das_simple_train_ADJ_layer2
    /// the same one everywhere.
    #[arg(long, value_delimiter = ',')]
    directions: Vec<String>,
    /// Layers at which directions are ablated (the number of layers stands for the end); all that are there without it.
    #[arg(long, allow_hyphen_values = true, value_delimiter = ',', requires = "directions", conflicts_with = "nodes")]
    layers: Vec<String>,
    /// How many random directions to ablate in the same places for comparison.
    #[arg(long, default_value_t = Ablation::default().random)]
    random: u32,
    /// What takes an activation's place: zero, mean (over the prompts, at each position), mean_over_places (one mean),
    /// mean_of_other_class (one of the negative prompts for positive ones, and the other way round), resample (another clean
    /// prompt), corrupted (the prompt's own corrupted one).
    #[arg(long, value_delimiter = ',', default_values_t = Ablation::default().methods)]
    methods: Vec<Replacement>,
    /// Positions: placeholders, END, ALL, numbers, COMMA, PERIOD (every such token); joined by + they are ablated together.
    #[arg(long, allow_hyphen_values = true, value_delimiter = ',', default_values_t = Ablation::default().positions)]
    positions: Vec<String>,
    /// Attention patterns: as they come, or those of the clean run.
    #[arg(long, value_delimiter = ',', value_parser = choice::<Attention>(), default_values_t = Ablation::default().attention)]
    attention: Vec<Attention>,
    /// Positions at which the ablated activations keep their clean values.
    #[arg(long, allow_hyphen_values = true, value_name = "POSITIONS")]
    keep_at: Option<String>,
    /// Only prompts that have these positions.
    #[arg(long, allow_hyphen_values = true, value_name = "POSITIONS")]
    require: Option<String>,
    /// Only prompts that the clean model answers rightly.
    #[arg(long)]
    correct_only: bool,
    /// As many positive as negative prompts, drawn at random from the larger class.
    #[arg(long)]
    balance: bool,
}

/// Ablates what the arguments name.
pub fn run(args: Args) -> Result<()> {
    let (asked, sets) = args.shared.parts();
    let ablation = Ablation {
        sets,
        nodes: args.nodes,
        directions: args.directions,
        layers: args.layers,
        random: args.random,
        methods: args.methods,
        positions: args.positions,
        attention: args.attention,
        keep_at: args.keep_at,
        require: args.require,
        correct_only: args.correct_only,
        balance: args.balance,
    };
    runner::run(asked, ablation)
}
