//! The bench as its user meets it: the real binary, with the real engine and with fakes that lie.

mod it {
    mod endings;
    mod fakes;
    mod schema;
    mod support;
    mod targets;
    mod tiers;
}
