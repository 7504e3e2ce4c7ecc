//! Segments searched as one. Scores do not depend on how chunks are spread over segments, nor on
//! dead documents.

mod meaning;
mod top;
mod words;

pub(crate) use top::FoundChunk;
pub use words::Tolerance;

use std::collections::HashMap;
use std::sync::Arc;

use crate::analyze::Language;
use crate::bytes::{float, index};
use crate::embed::Vector;
use crate::fuse::{self, Fusion, Scores};
use crate::segment::{DocumentSet, Error, Segment};

/// Chunks of each arm that are fused.
pub(crate) const ARM: usize = 100;

/// Which arms search.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// By words and by meaning.
    #[default]
    Hybrid,
    /// By words.
    Text,
    /// By meaning.
    Vector,
}

/// What is searched for.
#[derive(Debug, Clone)]
pub struct Query<'a> {
    /// The words.
    pub text: &'a str,
    /// The vector of the query. Without one, only the words count.
    pub vector: Option<&'a Vector>,
    /// Which arms search.
    pub mode: Mode,
    /// How the arms are fused.
    pub fusion: Fusion,
    /// Whether words may stand for others.
    pub tolerance: Tolerance,
    /// Hits at most.
    pub top_k: usize,
    /// The lowest score of a hit, 0 to 1.
    pub min_score: f32,
    /// Hits of one document at most.
    pub per_document_max: Option<usize>,
    /// The documents that are searched. `None`: all.
    pub selection: Option<&'a Selection>,
}

impl<'a> Query<'a> {
    /// The 8 best hits of a hybrid search in all documents, fused by
    /// [`fuse::STATIC_TABLE_WEIGHT`].
    pub fn new(text: &'a str, vector: Option<&'a Vector>) -> Self {
        Self {
            text,
            vector,
            mode: Mode::Hybrid,
            fusion: Fusion::Relative { vector_weight: fuse::STATIC_TABLE_WEIGHT },
            tolerance: Tolerance::default(),
            top_k: 8,
            min_score: 0.0,
            per_document_max: None,
            selection: None,
        }
    }
}

/// A chunk that was found.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// The name of its document.
    pub document: String,
    /// Its number in the document.
    pub number: u32,
    /// Its first byte in the document's text.
    pub start: usize,
    /// The byte after its last.
    pub end: usize,
    /// The page on which it begins.
    pub page: Option<u32>,
    /// The headings that it stands under.
    pub headings: Vec<String>,
    /// What it cites.
    pub text: String,
    /// The score by which hits are ordered, 0 to 1.
    pub score: f32,
    /// The scores that it is made of.
    pub scores: Scores,
}

/// Some documents of a collection. It is of use for the collection that made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    segments: Vec<DocumentSet>,
}

/// Segments that are searched as one.
#[derive(Debug)]
pub struct Collection {
    live: Vec<Live>,
    language: Language,
    dimensions: usize,
    /// Living chunks.
    chunks: u64,
}

/// A segment, and which of its documents live.
#[derive(Debug)]
struct Live {
    segment: Arc<Segment>,
    dead: DocumentSet,
    /// Of each document the place of its name among all names of the collection.
    ranks: Vec<u32>,
    norms: Vec<f32>,
}

impl Live {
    fn has_no_dead(&self) -> bool {
        self.dead.is_empty()
    }

    fn has(&self, chunk: u32) -> bool {
        let owner = self.segment.owners().get(index(chunk));
        owner.is_some_and(|&owner| !self.dead.contains(owner))
    }

    fn found(&self, score: f32, segment: u32, chunk: u32, owner: u32) -> Option<FoundChunk> {
        let rank = *self.ranks.get(index(owner))?;
        let number = self.segment.row(chunk)?.number;
        Some(FoundChunk { score, rank, number, segment, chunk })
    }
}

/// The documents that a search may find.
#[derive(Clone, Copy)]
struct Allowed<'a> {
    selection: Option<&'a Selection>,
}

impl Allowed<'_> {
    fn has(self, live: &Live, segment: u32, owner: u32) -> bool {
        let selected = self.selection.is_none_or(|selection| {
            let documents = selection.segments.get(index(segment));
            documents.is_some_and(|documents| documents.contains(owner))
        });
        selected && !live.dead.contains(owner)
    }
}

impl Collection {
    /// Opens segments of one language and number of dimensions. `dead` has the deleted documents
    /// of each segment; one that is not there has none. A living document is in one segment.
    pub fn open(segments: &[Arc<Segment>], dead: &[DocumentSet]) -> Result<Self, Error> {
        let first = segments.first();
        let language = first.map(|segment| segment.language()).unwrap_or_default();
        let dimensions = first.map_or(0, |segment| segment.dimensions());
        let same =
            |one: &Arc<Segment>| one.language() == language && one.dimensions() == dimensions;
        if !segments.iter().all(same) {
            return Err(Error::Mixed);
        }
        let mut names: Vec<&str> =
            segments.iter().flat_map(|one| one.documents()).map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        let ranks: HashMap<&str, u32> = names.into_iter().zip(0..).collect();
        let (mut chunks, mut length) = (0, 0);
        let nothing = DocumentSet::default();
        let mut live = Vec::new();
        for (number, segment) in segments.iter().enumerate() {
            let dead = dead.get(number).unwrap_or(&nothing).clone();
            for (&owner, &terms) in segment.owners().iter().zip(segment.lengths()) {
                if !dead.contains(owner) {
                    chunks += 1;
                    length += u64::from(terms);
                }
            }
            let ranks = segment.documents().iter().filter_map(|name| ranks.get(name.as_str()));
            let (segment, ranks) = (Arc::clone(segment), ranks.copied().collect());
            live.push(Live { segment, dead, ranks, norms: Vec::new() });
        }
        let average = float(length.max(1)) / float(chunks.max(1));
        for one in &mut live {
            one.norms = words::norms(one.segment.lengths(), average);
        }
        Ok(Self { live, language, dimensions, chunks })
    }

    /// How many living chunks it has.
    pub const fn len(&self) -> u64 {
        self.chunks
    }

    /// Whether it has no living chunk.
    pub const fn is_empty(&self) -> bool {
        self.chunks == 0
    }

    /// The documents for which `choose`, which is given their names, says yes.
    pub fn select(&self, mut choose: impl FnMut(&str) -> bool) -> Selection {
        let mut chosen = |live: &Live| {
            let numbered = (0..).zip(live.segment.documents());
            numbered.filter(|(_, name)| choose(name)).map(|(number, _)| number).collect()
        };
        Selection { segments: self.live.iter().map(&mut chosen).collect() }
    }

    /// The best hits, the best first. Equal scores come in the order of document names and chunk
    /// numbers.
    pub fn search(&self, query: &Query<'_>) -> Result<Vec<Hit>, Error> {
        if let Some(vector) = query.vector.filter(|_| query.mode != Mode::Text) {
            let found = vector.values().len();
            if found != self.dimensions && self.dimensions > 0 {
                return Err(Error::Dimensions { expected: self.dimensions, found });
            }
        }
        let allowed = Allowed { selection: query.selection };
        let limit = ARM.max(query.top_k);
        let text = match query.mode {
            Mode::Vector => Vec::new(),
            _ => words::search(self, query.text, query.tolerance, allowed, limit),
        };
        let vector = match (query.mode, query.vector) {
            (Mode::Text, _) | (_, None) => Vec::new(),
            (_, Some(_)) if self.dimensions == 0 => Vec::new(),
            (_, Some(vector)) => meaning::search(self, vector, allowed, limit),
        };
        let fusion = match (query.mode, query.vector) {
            (Mode::Hybrid, Some(_)) if self.dimensions > 0 => query.fusion,
            (Mode::Vector, _) => Fusion::Relative { vector_weight: 1.0 },
            _ => Fusion::Relative { vector_weight: 0.0 },
        };
        let mut of_document: HashMap<u32, usize> = HashMap::new();
        let mut hits = Vec::new();
        for (found, scores) in fuse::fuse(&text, &vector, fusion) {
            if hits.len() == query.top_k || found.score < query.min_score {
                break;
            }
            let count = of_document.entry(found.rank).or_default();
            *count += 1;
            if query.per_document_max.is_none_or(|max| *count <= max) {
                hits.push(self.hit(found, scores)?);
            }
        }
        Ok(hits)
    }

    fn hit(&self, found: FoundChunk, scores: Scores) -> Result<Hit, Error> {
        let broken = Error::Broken("a chunk cannot be read");
        let live = self.live.get(index(found.segment)).ok_or_else(|| broken.clone())?;
        let segment = &live.segment;
        let row = segment.row(found.chunk).ok_or_else(|| broken.clone())?;
        let owner = segment.owners().get(index(found.chunk));
        let document = owner.and_then(|&owner| segment.documents().get(index(owner)));
        Ok(Hit {
            document: document.ok_or(broken)?.clone(),
            number: row.number,
            start: row.start,
            end: row.end,
            page: row.page,
            headings: segment.headings(&row).to_vec(),
            text: segment.text(found.chunk)?,
            score: found.score,
            scores,
        })
    }
}
