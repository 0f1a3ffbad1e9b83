//! The two-step method: the senders' change is added to what the receivers read.

use super::{Case, Node, Work};
use crate::backend::Backend;
use crate::engine::{Cell, Change, Edit, EngineError, Flops, Mode, Part, Places, Plan, Scores, Site};
use crate::experiments::component::Component;
use crate::types::Matrix;
use std::collections::BTreeMap;
use std::sync::Arc;

impl Case {
    /// Number of places where the senders change.
    pub(super) fn tokens(&self) -> usize {
        self.positions.iter().map(Vec::len).sum()
    }

    /// The lowest sender's block.
    pub(super) fn first_layer(&self) -> usize {
        let start = |node: &Node| node.layer + usize::from(node.component == Component::ResidPost);
        self.senders.iter().map(start).min().unwrap_or(0)
    }
}

impl<B: Backend> Work<'_, B> {
    /// Scores of the run that is patched.
    pub(super) fn unpatched(&self) -> &Scores {
        match self.mode {
            Mode::Denoising => &self.paired.baselines().corrupted,
            Mode::Noising => &self.paired.baselines().clean,
        }
    }

    /// Where a case's senders change: (sequence of the patched run, sequence of the other one, position), prompt after
    /// prompt.
    pub(super) fn places<'c>(&'c self, case: &'c Case) -> impl Iterator<Item = (usize, usize, usize)> + 'c {
        case.positions.iter().enumerate().flat_map(move |(prompt, positions)| {
            let (own, other) = self.paired.sides(prompt, self.mode);
            positions.iter().map(move |&position| (own, other, position))
        })
    }

    /// The scores of every case, and the arithmetic it took.
    pub(super) fn two_steps<E: From<EngineError>>(
        &self,
        cases: &[Case],
        mut told: impl FnMut(f64) -> Result<(), E>,
    ) -> Result<(Vec<Scores>, Flops), E> {
        let mut scores = vec![self.unpatched().clone(); cases.len()];
        let mut flops = Flops::default();
        let reaching = |&case: &usize| cases[case].tokens() > 0 && !cases[case].receivers.is_empty();
        let reaching: Vec<usize> = (0..cases.len()).filter(reaching).collect();
        let tokens = cases.iter().map(Case::tokens).max().unwrap_or(0).max(1);
        let size = (self.engine.max_tokens() / tokens).max(1);
        let mut done = 0;
        for members in reaching.chunks(size) {
            let changes = self.changes(cases, members)?;
            let cells: Vec<Cell> = members.iter().map(|&case| self.added(&cases[case], &changes[&case])).collect();
            let plan = Plan::new(self.engine.config(), self.paired.prompts(), &cells, self.engine.max_tokens())?;
            let found = plan.run(self.engine, self.paired, self.metrics, |_| Ok::<(), EngineError>(()))?;
            members.iter().zip(found).for_each(|(&case, found)| scores[case] = found);
            flops = flops + plan.flops() + self.product_flops(cases, members);
            done += members.len();
            told(done as f64 / reaching.len() as f64)?;
        }
        Ok((scores, flops))
    }

    /// Per case, what each of its senders adds to the residual stream, `(places, d_model)`.
    fn changes(&self, cases: &[Case], members: &[usize]) -> Result<BTreeMap<usize, Vec<Matrix>>, EngineError> {
        let run = self.paired.run();
        let mut changes = BTreeMap::new();
        for &case in members {
            let pair = |(own, other, position)| Ok((run.token(own, position)?, run.token(other, position)?));
            let pairs = self.places(&cases[case]).map(pair).collect::<Result<Vec<_>, EngineError>>()?;
            let change = |node: &Node| self.engine.residual_change(run, (node.site(), node.part), &pairs);
            changes.insert(case, cases[case].senders.iter().map(change).collect::<Result<Vec<_>, _>>()?);
        }
        Ok(changes)
    }

    /// The products that bring heads and neurons into the residual stream.
    fn product_flops(&self, cases: &[Case], members: &[usize]) -> Flops {
        let config = self.engine.config();
        let width = |node: &Node| match node.component {
            Component::Z => config.d_attn(),
            Component::MlpPost => config.d_mlp,
            _ => 0,
        };
        let of = |&case: &usize| {
            let widths: usize = cases[case].senders.iter().map(width).sum();
            Flops((2 * cases[case].tokens() * config.d_model * widths) as u64)
        };
        members.iter().map(of).sum()
    }

    /// The cell in which every receiver reads the changes of the senders before it.
    fn added(&self, case: &Case, changes: &[Matrix]) -> Cell {
        let config = self.engine.config();
        let edit = |node: &Node| {
            let mut sum = Matrix::zeros(case.tokens(), config.d_model);
            let before = case.senders.iter().zip(changes).filter(|(sender, _)| node.comes_after(**sender, config));
            for (_, change) in before {
                sum.data.iter_mut().zip(&change.data).for_each(|(sum, change)| *sum += change);
            }
            let (site, part) = match node.component {
                Component::Q => (Site::QInput(node.layer), node.part),
                Component::K => (Site::KInput(node.layer), node.part),
                Component::V => (Site::VInput(node.layer), node.part),
                _ => (node.site(), Part::All),
            };
            let places = Places::PerPrompt(case.positions.clone());
            Edit { site, part, places, change: Change::Add(Arc::new(sum), 1.0) }
        };
        Cell { mode: self.mode, edits: case.receivers.iter().map(edit).collect() }
    }
}
