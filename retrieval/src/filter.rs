//! Conditions on the attributes of documents, in OpenAI's language.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Attributes of a document at most.
pub const ATTRIBUTES_MAX: usize = 16;
/// Characters of an attribute's name at most.
pub const NAME_MAX: usize = 64;
/// Characters of an attribute's text at most.
pub const TEXT_MAX: usize = 512;
/// Levels of a filter at most.
pub const DEPTH_MAX: usize = 8;
/// Conditions of a filter at most, `and` and `or` counted.
pub const NODES_MAX: usize = 64;
/// Values of a list at most.
pub const LIST_MAX: usize = 256;

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Value {
    /// True or false.
    Bool(bool),
    /// A number.
    Number(f64),
    /// A text.
    Text(String),
}

impl Value {
    /// The order of two values of one type.
    fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(one), Self::Bool(other)) => Some(one.cmp(other)),
            (Self::Number(one), Self::Number(other)) => one.partial_cmp(other),
            (Self::Text(one), Self::Text(other)) => Some(one.cmp(other)),
            _ => None,
        }
    }

    fn fits(&self) -> bool {
        match self {
            Self::Bool(_) => true,
            Self::Number(number) => number.is_finite(),
            Self::Text(text) => text.chars().count() <= TEXT_MAX,
        }
    }
}

/// Why attributes or a filter are refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too many attributes.
    #[error("a document has at most {ATTRIBUTES_MAX} attributes; leave some out")]
    Attributes,
    /// A name that is empty or too long.
    #[error("the name of an attribute has 1 to {NAME_MAX} characters")]
    Name,
    /// A value that is too long, or not a finite number.
    #[error("the value of an attribute has at most {TEXT_MAX} characters, and is a finite number")]
    Value,
    /// Too many levels.
    #[error("a filter has at most {DEPTH_MAX} levels; put conditions beside each other")]
    Depth,
    /// Too many conditions.
    #[error("a filter has at most {NODES_MAX} conditions; use `in` for many values of one key")]
    Nodes,
    /// Too many values in a list.
    #[error("a list of a filter has at most {LIST_MAX} values")]
    List,
}

/// What a document's owner says of it. Within the limits, by construction.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, Value>")]
pub struct Attributes(BTreeMap<String, Value>);

impl Attributes {
    /// The value of a name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name)
    }
}

impl TryFrom<BTreeMap<String, Value>> for Attributes {
    type Error = Refused;

    fn try_from(values: BTreeMap<String, Value>) -> Result<Self, Refused> {
        if values.len() > ATTRIBUTES_MAX {
            return Err(Refused::Attributes);
        }
        for (name, value) in &values {
            if !is_name(name) {
                return Err(Refused::Name);
            }
            if !value.fits() {
                return Err(Refused::Value);
            }
        }
        Ok(Self(values))
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().count() <= NAME_MAX
}

/// A condition on attributes. Within the limits, by construction.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Condition")]
pub struct Filter(Condition);

/// One condition, or several of which all (`and`) or any (`or`) are to hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Condition {
    /// The value is this one.
    Eq {
        /// The name of the attribute.
        key: String,
        /// What it is compared with.
        value: Value,
    },
    /// The value is not this one, or there is none.
    Ne {
        /// The name of the attribute.
        key: String,
        /// What it is compared with.
        value: Value,
    },
    /// The value is of the same type, and greater.
    Gt {
        /// The name of the attribute.
        key: String,
        /// What it is compared with.
        value: Value,
    },
    /// The value is of the same type, and greater or equal.
    Gte {
        /// The name of the attribute.
        key: String,
        /// What it is compared with.
        value: Value,
    },
    /// The value is of the same type, and less.
    Lt {
        /// The name of the attribute.
        key: String,
        /// What it is compared with.
        value: Value,
    },
    /// The value is of the same type, and less or equal.
    Lte {
        /// The name of the attribute.
        key: String,
        /// What it is compared with.
        value: Value,
    },
    /// The value is one of these.
    In {
        /// The name of the attribute.
        key: String,
        /// What it is compared with.
        value: Vec<Value>,
    },
    /// The value is none of these, or there is none.
    Nin {
        /// The name of the attribute.
        key: String,
        /// What it is compared with.
        value: Vec<Value>,
    },
    /// All hold.
    And {
        /// The conditions.
        filters: Vec<Condition>,
    },
    /// One holds.
    Or {
        /// The conditions.
        filters: Vec<Condition>,
    },
}

impl TryFrom<Condition> for Filter {
    type Error = Refused;

    fn try_from(condition: Condition) -> Result<Self, Refused> {
        condition.check(DEPTH_MAX, &mut 0)?;
        Ok(Self(condition))
    }
}

impl Filter {
    /// Whether a document with these attributes is meant.
    pub fn matches(&self, attributes: &Attributes) -> bool {
        self.0.holds(attributes)
    }
}

impl Condition {
    fn check(&self, levels: usize, nodes: &mut usize) -> Result<(), Refused> {
        *nodes += 1;
        if *nodes > NODES_MAX {
            return Err(Refused::Nodes);
        }
        let levels = levels.checked_sub(1).ok_or(Refused::Depth)?;
        let (key, values) = match self {
            Self::And { filters } | Self::Or { filters } => {
                return filters.iter().try_for_each(|filter| filter.check(levels, nodes));
            }
            Self::In { key, value } | Self::Nin { key, value } => (key, value.as_slice()),
            Self::Eq { key, value }
            | Self::Ne { key, value }
            | Self::Gt { key, value }
            | Self::Gte { key, value }
            | Self::Lt { key, value }
            | Self::Lte { key, value } => (key, std::slice::from_ref(value)),
        };
        if !is_name(key) {
            return Err(Refused::Name);
        }
        if values.len() > LIST_MAX {
            return Err(Refused::List);
        }
        if values.iter().all(Value::fits) { Ok(()) } else { Err(Refused::Value) }
    }

    fn holds(&self, attributes: &Attributes) -> bool {
        let order = |key: &str, value: &Value| attributes.get(key)?.compare(value);
        let is = |key: &str, value: &Value| order(key, value) == Some(Ordering::Equal);
        match self {
            Self::Eq { key, value } => is(key, value),
            Self::Ne { key, value } => !is(key, value),
            Self::Gt { key, value } => order(key, value).is_some_and(Ordering::is_gt),
            Self::Gte { key, value } => order(key, value).is_some_and(Ordering::is_ge),
            Self::Lt { key, value } => order(key, value).is_some_and(Ordering::is_lt),
            Self::Lte { key, value } => order(key, value).is_some_and(Ordering::is_le),
            Self::In { key, value } => value.iter().any(|value| is(key, value)),
            Self::Nin { key, value } => !value.iter().any(|value| is(key, value)),
            Self::And { filters } => filters.iter().all(|filter| filter.holds(attributes)),
            Self::Or { filters } => filters.iter().any(|filter| filter.holds(attributes)),
        }
    }
}
