//! Scenarios: guests.

use super::Scenario;

/// All of them.
pub fn all() -> Vec<Scenario> {
    Vec::new()
}
