//! The one source of chosen numbers: the same on every machine, for ever.

/// splitmix64: a few additions and multiplications, so its numbers never change with a library version. Identical bit
/// for bit with the one in `golden/oracle.py`.
#[derive(Clone, Debug)]
pub struct Rng(u64);

const GOLDEN: u64 = 0x9E37_79B9_7F4A_7C15;

impl Rng {
    /// Stream of a seed.
    pub fn new(seed: u64) -> Self {
        Rng(seed)
    }

    /// Stream of a name: FNV-1a of its bytes.
    pub fn named(name: &str) -> Self {
        let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x100_0000_01b3));
        Rng(hash)
    }

    /// A stream for the given words; each is mixed in, so neighbouring seeds have unrelated streams.
    pub fn of(words: &[u64]) -> Self {
        let mut rng = Rng(0x5357_4954_4348_464D);
        for &word in words {
            rng.0 ^= word;
            rng.0 = rng.next_u64();
        }
        rng
    }

    /// An independent stream for a sub-purpose.
    pub fn fork(&self, key: u64) -> Self {
        let mut s = Rng(self.0 ^ key.wrapping_mul(GOLDEN));
        Rng(s.next_u64())
    }

    /// Next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(GOLDEN);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// Uniform in `[0, 1)` with 24 bits, exact in f32.
    pub fn unit(&mut self) -> f32 {
        (self.next_u64() >> 40) as f32 / (1u32 << 24) as f32
    }

    /// Uniform in `[0, 1)` with 53 bits, exact in f64.
    pub fn unit64(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Uniform in `[low, high)`.
    pub fn between(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.unit64()
    }

    /// Whole number below `n` (`n` > 0), from one draw: uniform to 2^-64 of `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(n)) >> 64) as u64
    }

    /// Whole number below `n`, without bias (Lemire's method); 0 where `n` is 0.
    pub fn pick(&mut self, n: u32) -> u32 {
        let n = u64::from(n.max(1));
        loop {
            let m = (self.next_u64() >> 32) * n;
            // The lowest part of the range is rejected where it would be hit once too often.
            if (m & 0xFFFF_FFFF) >= (1u64 << 32) % n {
                return (m >> 32) as u32;
            }
        }
    }

    /// Standard normal, truncated to two deviations (the initialiser of ViT and BERT).
    pub fn trunc_normal(&mut self) -> f32 {
        loop {
            // Box-Muller; 1 - u is never zero.
            let r = (-2.0 * (1.0 - self.unit()).ln()).sqrt();
            let z = r * (std::f32::consts::TAU * self.unit()).cos();
            if z.abs() <= 2.0 {
                return z;
            }
        }
    }
}
