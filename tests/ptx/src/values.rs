//! What registers hold: 32 lanes of raw bits, seen as one of Rust's types by each instruction.

/// Lanes of a warp.
pub const WARP: usize = 32;
pub const ALL_LANES: Mask = u32::MAX;

/// A register of a warp; values of 32 bits lie in the lower half, predicates are 0 or 1.
pub type Lanes = [u64; WARP];

/// One bit per lane.
pub type Mask = u32;

/// The lanes of a mask.
pub fn lanes_of(mask: Mask) -> impl Iterator<Item = usize> {
    (0..WARP).filter(move |lane| mask >> lane & 1 == 1)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Predicate,
    /// Fits every type of its size.
    Bits,
    Integer,
    Float,
}

/// The type of a register or of an instruction's operand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Type {
    pub kind: Kind,
    pub bytes: usize,
    pub signed: bool,
}

impl Type {
    /// `f32`, `b64`, `pred`, ...
    pub fn named(name: &str) -> Option<Self> {
        if name == "pred" {
            return Some(Self { kind: Kind::Predicate, bytes: 1, signed: false });
        }
        let (kind, bits) = name.split_at_checked(1)?;
        let bytes = match bits {
            "8" => 1,
            "16" => 2,
            "32" => 4,
            "64" => 8,
            _ => return None,
        };
        let kind = match kind {
            "b" => Kind::Bits,
            "u" | "s" => Kind::Integer,
            "f" => Kind::Float,
            _ => return None,
        };
        Some(Self { kind, bytes, signed: name.starts_with('s') })
    }

    /// Can an operand of this type be a register of that one? `wider`: loads and conversions of whole numbers take larger
    /// ones, too.
    pub fn fits(self, register: Self, wider: bool) -> bool {
        let kind = self.kind == register.kind || self.kind == Kind::Bits || register.kind == Kind::Bits;
        let predicates = (self.kind == Kind::Predicate) == (register.kind == Kind::Predicate);
        let wider = wider && self.bytes < register.bytes && ![self.kind, register.kind].contains(&Kind::Float);
        kind && predicates && (self.bytes == register.bytes || wider)
    }
}

/// A value of a lane.
pub trait Scalar: Copy {
    /// As PTX names the type.
    const NAME: &'static str;
    fn value(bits: u64) -> Self;
    fn bits(self) -> u64;
}

/// Bits that any type of the size can hold.
#[derive(Debug, Clone, Copy)]
pub struct Bits32(pub u32);
#[derive(Debug, Clone, Copy)]
pub struct Bits64(pub u64);

macro_rules! scalar {
    ($type:ty, $name:literal, $bits:ident => $value:expr, $self:ident => $back:expr) => {
        impl Scalar for $type {
            const NAME: &'static str = $name;
            fn value($bits: u64) -> Self {
                $value
            }
            fn bits($self) -> u64 {
                $back
            }
        }
    };
}
scalar!(bool, "pred", bits => bits != 0, self => u64::from(self));
scalar!(u32, "u32", bits => bits as u32, self => u64::from(self));
scalar!(i32, "s32", bits => bits as i32, self => u64::from(self as u32));
scalar!(u64, "u64", bits => bits, self => self);
scalar!(i64, "s64", bits => bits as i64, self => self as u64);
scalar!(f32, "f32", bits => f32::from_bits(bits as u32), self => u64::from(self.to_bits()));
scalar!(f64, "f64", bits => f64::from_bits(bits), self => self.to_bits());
scalar!(Bits32, "b32", bits => Self(bits as u32), self => u64::from(self.0));
scalar!(Bits64, "b64", bits => Self(bits), self => self.0);

/// What an instruction computes in every lane, and the types of its operands.
#[derive(Debug, Clone, Copy)]
pub struct Form {
    pub to: &'static str,
    pub from: &'static [&'static str],
    pub run: fn(&[&Lanes; 4], &mut Lanes),
}

/// A [`Form`] from what happens in one lane.
macro_rules! form {
    (|$($operand:ident: $type:ty),+| -> $result:ty { $body:expr }) => {{
        fn run(operands: &[&$crate::values::Lanes; 4], to: &mut $crate::values::Lanes) {
            let [$($operand),+, ..] = operands;
            let lane = |$($operand: $type),+| -> $result { $body };
            for i in 0..$crate::values::WARP {
                to[i] = $crate::values::Scalar::bits(lane($(<$type as $crate::values::Scalar>::value($operand[i])),+));
            }
        }
        $crate::values::Form {
            to: <$result as $crate::values::Scalar>::NAME,
            from: &[$(<$type as $crate::values::Scalar>::NAME),+],
            run,
        }
    }};
}
pub(crate) use form;
