//! The next image.
