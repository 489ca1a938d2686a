//! The engine's rules on the made-up machine of [`model`](super::model).

mod cost;
mod grants;
mod random;
mod rules;

use super::model::*;
use super::{Access, DomainView, Effects, PageTypes, TypeError};
use crate::frame::{DomId, Mfn};
use crate::mm::page_info::PageType;
use std::vec::Vec;
