//! Which maps are asked for, what they are made of, and which of them are there.

use super::prompts::{figure_of, prompts_path, read_prompts};
use super::{MapStudy, Named, Notation};
use crate::datasets::PairedPrompts;
use crate::files::sha256;
use crate::report::ResultMap;
use crate::report::figure::Figure;
use crate::session::{Note, Observer, Provenance, Session, Standing, check_output, distinct, fingerprint, note_kept};
use anyhow::Result;

/// A map that is asked for.
pub(crate) struct Asked<K> {
    pub kind: K,
    pub stem: String,
    pub provenance: Provenance,
    /// The map, if it is there already; with its figure only if that is lost.
    pub kept: Option<Named>,
}

/// A dataset with the maps that are asked for.
pub(crate) struct AskedSet<K> {
    pub prompts: PairedPrompts,
    pub maps: Vec<Asked<K>>,
}

impl<K: Clone> AskedSet<K> {
    /// The maps that have to be made.
    pub fn wanted(&self) -> Vec<K> {
        self.maps.iter().filter(|map| map.kept.is_none()).map(|map| map.kind.clone()).collect()
    }

    /// The map of this kind, if it is there already.
    pub fn kept(&self, kind: &K) -> Option<&Named>
    where
        K: PartialEq,
    {
        self.maps.iter().find(|map| map.kind == *kind).and_then(|map| map.kept.as_ref())
    }

    /// What a map of this name is made of.
    pub fn provenance_of(&self, stem: &str) -> Option<&Provenance> {
        self.maps.iter().find(|map| map.stem == stem).map(|map| &map.provenance)
    }
}

/// The maps that a study asks for of one model.
pub(crate) struct AskedMaps<K> {
    /// The session that computes: with a readout, if there is one.
    pub session: Session,
    pub sets: Vec<AskedSet<K>>,
}

/// Finds out which maps are asked for, and which of them are there.
pub(crate) fn asked<S: MapStudy>(
    study: &S,
    session: &Session,
    observer: &mut dyn Observer,
) -> Result<AskedMaps<S::Kind>> {
    study.validate()?;
    let session = match study.readout() {
        Some(along) => session.reading_along(session.unit_direction("along", along)?)?,
        None => session.clone(),
    };
    let mut all = Vec::new();
    for prompts in study.sets().prompts(&session)? {
        let mut maps = Vec::new();
        for kind in distinct(&study.kinds(&session, &prompts)?) {
            maps.push(asked_map(study, &session, &prompts, kind, observer)?);
        }
        note_kept(observer, maps.iter().filter(|map| map.kept.is_some()).count(), "maps", session.folder());
        all.push(AskedSet { prompts, maps });
    }
    Ok(AskedMaps { session, sets: all })
}

fn asked_map<S: MapStudy>(
    study: &S,
    session: &Session,
    prompts: &PairedPrompts,
    kind: S::Kind,
    observer: &mut dyn Observer,
) -> Result<Asked<S::Kind>> {
    let stem = study.stem(session, &kind, &prompts.name);
    let provenance = provenance_of(study, session, prompts, &kind)?;
    let draw = |named: &Named| figure_of(study, session, prompts, &kind, named);
    let lacks = |named: &Named, figure_lost| study.lacks(&kind, named, figure_lost);
    let kept = kept(session, &stem, &provenance, draw, lacks, observer)?;
    if kept.is_none() {
        study.spares(session, prompts, &kind, &provenance)?;
    }
    Ok(Asked { kind, stem, provenance, kept })
}

/// What a map is made of.
pub(crate) fn provenance_of<S: MapStudy>(
    study: &S,
    session: &Session,
    prompts: &PairedPrompts,
    kind: &S::Kind,
) -> Result<Provenance> {
    let mut provenance = session.provenance(S::NAME)?.with("dataset", fingerprint(prompts)?)?;
    provenance = provenance.with("placeholders", &prompts.positions)?;
    if let Some(direction) = session.model().readout() {
        provenance = provenance.with("along", sha256(bytemuck::cast_slice(direction)))?;
    }
    study.depends(session, prompts, kind, provenance)
}

/// The map of a name if it is there, made of `provenance` and whole; with its figure only if that is lost. `lacks` is
/// [`MapStudy::lacks`].
pub(crate) fn kept(
    session: &Session,
    stem: &str,
    provenance: &Provenance,
    draw: impl FnOnce(&Named) -> Result<Option<Figure>>,
    lacks: impl FnOnce(&Named, bool) -> Option<&'static str>,
    observer: &mut dyn Observer,
) -> Result<Option<Named>> {
    check_output(stem)?;
    let folder = session.results()?;
    if session.options().overwrite {
        return Ok(None);
    }
    let mut made_again = |difference: String| {
        observer.note(&Note::Renewed { what: stem.to_owned(), difference });
        Ok(None)
    };
    let own = ResultMap::paths(&folder, stem);
    let recorded = session.recorded_files(stem).filter(|files| own.iter().all(|path| files.contains(path)));
    let files = recorded.unwrap_or_else(|| own.into());
    let notation = match session.standing(stem, &files, provenance)? {
        Standing::Absent => return Ok(None),
        Standing::Other(difference) => return made_again(difference),
        Standing::Kept(notation) => notation,
    };
    let Notation { head, agreement, figure } = match serde_json::from_value(notation) {
        Ok(notation) => notation,
        Err(error) => return made_again(format!("what is noted of it cannot be read ({error})")),
    };
    let named = Named { agreement, ..Named::new(stem.to_owned(), ResultMap::read(&folder, stem, head)?) };
    let lost = figure && !Figure::paths(&folder, stem).iter().all(|path| path.is_file());
    if let Some(lacking) = lacks(&named, lost) {
        return made_again(lacking.to_owned());
    }
    if !lost {
        return Ok(Some(named));
    }
    let prompts = match files.contains(&prompts_path(&folder, stem)) {
        true => Some(read_prompts(&folder, stem)?),
        false => None,
    };
    let named = Named { prompts, ..named };
    let figure = draw(&named)?;
    Ok(Some(Named { figure, ..named }))
}

/// Draws the figures again that are lost beside maps that are there.
pub(crate) fn redraw<'a, K: 'a>(session: &Session, maps: impl IntoIterator<Item = &'a Asked<K>>) -> Result<()> {
    for Named { stem, figure, .. } in maps.into_iter().filter_map(|asked| asked.kept.as_ref()) {
        if let Some(figure) = figure {
            figure.write_beside_data(&session.folder(), stem)?;
        }
    }
    Ok(())
}
