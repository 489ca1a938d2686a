//! One figure, what the same takes others, and what it has to reach.

use crate::{Spread, short};
use indexmap::IndexMap;
use serde::Serialize;
use serde_json::{Map, Value};

/// What a figure has to reach.
#[derive(Clone, Copy, Debug)]
pub enum Target {
    /// This or less.
    AtMost(f64),
    /// This or more.
    AtLeast(f64),
}

impl Target {
    const fn value(self) -> f64 {
        match self {
            Self::AtMost(value) | Self::AtLeast(value) => value,
        }
    }

    fn is_met(self, found: f64) -> bool {
        match self {
            Self::AtMost(most) => found <= most,
            Self::AtLeast(least) => found >= least,
        }
    }
}

/// One line of the table.
#[derive(Clone, Debug)]
pub struct Row {
    pub(crate) what: String,
    pub(crate) unit: &'static str,
    /// What was found.
    pub ours: Spread,
    pub(crate) baselines: Vec<(&'static str, Spread)>,
    target: Option<Target>,
    more: Map<String, Value>,
}

/// A row as JSON has it.
#[derive(Serialize)]
pub(crate) struct JsonRow<'a> {
    what: &'a str,
    unit: &'a str,
    ours: f64,
    baselines: IndexMap<&'a str, f64>,
    target: Option<f64>,
    met: Option<bool>,
    #[serde(flatten)]
    more: &'a Map<String, Value>,
}

impl Row {
    /// A figure of ours.
    pub fn new(what: impl Into<String>, unit: &'static str, ours: Spread) -> Self {
        Self { what: what.into(), unit, ours, baselines: Vec::new(), target: None, more: Map::new() }
    }

    /// What the same takes another.
    pub fn beside(mut self, name: &'static str, figure: Spread) -> Self {
        self.baselines.push((name, figure));
        self
    }

    /// What it has to reach.
    pub fn target(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }

    /// More that JSON has of it, behind the rest.
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }

    /// What it is a figure of.
    pub fn what(&self) -> &str {
        &self.what
    }

    /// If it reaches what it has to; none if there is nothing to reach. The median is judged.
    pub fn is_met(&self) -> Option<bool> {
        self.target.map(|target| target.is_met(self.ours.median))
    }

    pub(crate) fn target_text(&self) -> String {
        match self.target {
            Some(Target::AtMost(value)) => format!("≤ {}", short(value)),
            Some(Target::AtLeast(value)) => format!("≥ {}", short(value)),
            None => String::new(),
        }
    }

    pub(crate) fn json(&self) -> JsonRow<'_> {
        let baselines = self.baselines.iter().map(|(name, figure)| (*name, figure.median)).collect();
        let (ours, target, met) = (self.ours.median, self.target.map(Target::value), self.is_met());
        JsonRow { what: &self.what, unit: self.unit, ours, baselines, target, met, more: &self.more }
    }
}
