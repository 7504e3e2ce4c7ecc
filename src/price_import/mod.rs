//! Public price files, read into cards and models. Nothing here reads or writes anything: a file
//! comes as bytes.
//!
//! Three forms are known by their content: LiteLLM's `model_prices_and_context_window.json`, the
//! data of genai-prices and the data of models.dev; each also compressed by gzip, or within a wheel
//! or another zip archive.
//!
//! Numbers are read exactly. What cannot be billed in the dimensions that we have is refused with
//! its reason. Where a file leaves open which of two prices counts, the higher one does.

mod archive;
mod choose;
mod compare;
mod exact;
mod genai;
mod litellm;
mod model;
mod models_dev;
mod python;
mod sheet;
mod tree;

use domain::Timestamp;

pub use archive::{FILE_MAX, open};
pub use choose::{Choice, ChoiceError, Chosen, ChosenModel, largest_change, markup};
pub use compare::{PriceComparison, compare};
pub use model::{Imported, ImportedModel, RefusedModel};

/// The form of a price file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileFormat {
    /// LiteLLM's.
    LiteLlm,
    /// That of genai-prices.
    GenaiPrices,
    /// That of models.dev.
    ModelsDev,
}

impl FileFormat {
    /// All of them.
    pub const ALL: [FileFormat; 3] =
        [FileFormat::LiteLlm, FileFormat::GenaiPrices, FileFormat::ModelsDev];

    /// Its word in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            FileFormat::LiteLlm => "litellm",
            FileFormat::GenaiPrices => "genai-prices",
            FileFormat::ModelsDev => "models.dev",
        }
    }

    /// The form with this word.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|format| format.name() == name)
    }
}

/// Why a file is not read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    /// It, or what is in it, is too large.
    #[error(
        "the price file is larger than {} MiB, or grows beyond measure when it is decompressed",
        FILE_MAX / 1024 / 1024
    )]
    TooLarge,
    /// The archive is damaged, or compressed in a way that we cannot read.
    #[error("the archive is damaged, or is not compressed by deflate")]
    BadArchive,
    /// The archive has no price file.
    #[error(
        "the archive has no price file: expected model_prices_and_context_window.json, \
         genai_prices/data.py, api.json, data.json or data.json.gz"
    )]
    NoPriceFile,
    /// It is not UTF-8.
    #[error("the price file is not text")]
    NotText,
    /// It is not JSON that we take.
    #[error("the price file is not JSON that can be read: {0}")]
    NotJson(String),
    /// It is not a list of prices in Python.
    #[error("the price file cannot be read after line {line}: {what}")]
    NotPython {
        /// The last line that was read.
        line: usize,
        /// What is wrong after it.
        what: &'static str,
    },
    /// It is none of the forms that are known.
    #[error(
        "this is no price file of a known form: expected LiteLLM's \
         model_prices_and_context_window.json, or the data of genai-prices or of models.dev"
    )]
    UnknownFormat,
    /// It has another form than was said.
    #[error("the file is of the form {found}, not {expected}", found = .found.name(),
        expected = .expected.name())]
    OtherFormat {
        /// What it is.
        found: FileFormat,
        /// What was said.
        expected: FileFormat,
    },
}

/// Reads the text of a price file, with the prices that it has for the day of `at`. `expected` is
/// the form that it must have.
///
/// # Errors
/// If it is none.
pub fn read(
    text: &str,
    expected: Option<FileFormat>,
    at: Timestamp,
) -> Result<(FileFormat, Imported), ImportError> {
    let is_python = python::is_one(text);
    let tree = if is_python { python::read(text)? } else { tree::json(text)? };
    let instant = at.to_rfc3339();
    let day = instant.get(..10).unwrap_or_default();
    let (found, imported) = if let Some(providers) = genai::providers(&tree) {
        (FileFormat::GenaiPrices, genai::read(providers, day))
    } else if litellm::is_one(&tree) {
        (FileFormat::LiteLlm, litellm::read(&tree))
    } else if models_dev::is_one(&tree) {
        (FileFormat::ModelsDev, models_dev::read(&tree))
    } else {
        return Err(ImportError::UnknownFormat);
    };
    match expected.filter(|expected| *expected != found) {
        Some(expected) => Err(ImportError::OtherFormat { found, expected }),
        None => Ok((found, imported)),
    }
}

#[cfg(test)]
mod tests;
