//! Sets of frame ranges.
