//! kexec: the next image, the entry list that moves it into place, and the code that obeys the list.

pub mod image;
pub mod kimage;
pub mod simulate;
