//! stub
use std::{fmt, path::Path};
#[derive(Debug)]
pub struct Report;
impl fmt::Display for Report {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}
impl Report {
    pub fn is_fit(&self) -> bool {
        true
    }
}
pub fn examine(_: &Path) -> Report {
    Report
}
