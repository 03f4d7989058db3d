//! Templates as a whole: from a file to lines.
