//! One body for the fuzz targets and for the ordinary tests: each target does its work a second
//! time in a slow, obvious way, and panics where the two differ.

#[path = "harness/framing.rs"]
pub(crate) mod framing;
#[path = "harness/gzip.rs"]
pub(crate) mod gzip;
#[path = "harness/hello.rs"]
pub(crate) mod hello;
#[path = "harness/parse.rs"]
pub(crate) mod parse;

/// Panics if the input shows a defect.
pub(crate) type Check = fn(&[u8]);

/// A target's name, which is also its folder of seeds, and what it does with an input.
pub(crate) const TARGETS: [(&str, Check); 4] = [
    ("framing", framing::check),
    ("gzip", gzip::check),
    ("hello", hello::check),
    ("parse", parse::check),
];

pub(crate) fn check(name: &str, data: &[u8]) {
    let (_, check) = TARGETS.iter().find(|target| target.0 == name).expect("a target's name");
    check(data);
}

/// Line bounds to choose from, in bytes.
const BOUNDS: [usize; 6] = [1, 8, 63, 300, 5000, 262_144];

/// The first bytes of an input, which choose how the rest is treated; 0 where it is too short.
fn split_head<const N: usize>(data: &[u8]) -> ([u8; N], &[u8]) {
    let (head, rest) = data.split_at(data.len().min(N));
    (std::array::from_fn(|at| head.get(at).copied().unwrap_or(0)), rest)
}

fn line_bound(choice: u8) -> usize {
    BOUNDS[usize::from(choice) % BOUNDS.len()]
}

/// A tiny deterministic generator (xorshift*), so that a failing input says everything.
struct Dice(u64);

impl Dice {
    /// From 0 to `sides` - 1.
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= 0x9E37_79B9_7F4A_7C15;
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap_or(0) % sides
    }
}

impl Dice {
    fn new(cuts: u8, holds: u8) -> Self {
        Dice(u64::from(cuts) << 8 | u64::from(holds))
    }

    /// Whether this frame is held: one in `holds % 8`, or none if that is 0.
    fn holds(&mut self, holds: u8) -> bool {
        !holds.is_multiple_of(8) && self.roll(usize::from(holds % 8) + 1) == 0
    }

    /// The next piece of a stream. Mostly nothing while `waiting`, as a careful caller does.
    fn piece<'a>(&mut self, rest: &mut &'a [u8], cuts: u8, waiting: bool) -> &'a [u8] {
        if waiting && self.roll(8) != 0 {
            return &[];
        }
        let piece_max = (usize::from(cuts) * usize::from(cuts) / 8).max(1);
        let (piece, behind) = rest.split_at(rest.len().min(self.roll(piece_max) + 1));
        *rest = behind;
        piece
    }
}
