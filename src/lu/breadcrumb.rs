//! The breadcrumb.
