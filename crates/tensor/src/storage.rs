//! Types of elements and the memory they lie in.

use half::{bf16, f16};

use crate::{Error, Result, bail};

/// Type of elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DType {
    /// Bytes.
    U8,
    /// Small whole numbers.
    I16,
    /// Whole numbers as NumPy has them on some systems.
    I32,
    /// Ids and indices.
    U32,
    /// Ids as PyTorch stores them.
    I64,
    /// Brain floats.
    BF16,
    /// Half floats.
    F16,
    /// What the kernels compute in.
    F32,
    /// References and sums.
    F64,
}

impl DType {
    /// Bytes of an element.
    pub fn size_in_bytes(self) -> usize {
        match self {
            DType::U8 => 1,
            DType::I16 | DType::BF16 | DType::F16 => 2,
            DType::I32 | DType::U32 | DType::F32 => 4,
            DType::I64 | DType::F64 => 8,
        }
    }

    /// Whether elements are floats.
    pub fn is_float(self) -> bool {
        matches!(self, DType::BF16 | DType::F16 | DType::F32 | DType::F64)
    }
}

/// Elements one after another.
#[derive(Clone, Debug)]
pub enum CpuStorage {
    /// See [`DType::U8`].
    U8(Vec<u8>),
    /// See [`DType::I16`].
    I16(Vec<i16>),
    /// See [`DType::I32`].
    I32(Vec<i32>),
    /// See [`DType::U32`].
    U32(Vec<u32>),
    /// See [`DType::I64`].
    I64(Vec<i64>),
    /// See [`DType::BF16`].
    BF16(Vec<bf16>),
    /// See [`DType::F16`].
    F16(Vec<f16>),
    /// See [`DType::F32`].
    F32(Vec<f32>),
    /// See [`DType::F64`].
    F64(Vec<f64>),
}

/// Runs `$body` with `$v` as the vector of a storage, whatever its type.
macro_rules! each {
    ($storage:expr, $v:ident => $body:expr) => {
        match $storage {
            $crate::CpuStorage::U8($v) => $body,
            $crate::CpuStorage::I16($v) => $body,
            $crate::CpuStorage::I32($v) => $body,
            $crate::CpuStorage::U32($v) => $body,
            $crate::CpuStorage::I64($v) => $body,
            $crate::CpuStorage::BF16($v) => $body,
            $crate::CpuStorage::F16($v) => $body,
            $crate::CpuStorage::F32($v) => $body,
            $crate::CpuStorage::F64($v) => $body,
        }
    };
}
pub(crate) use each;

impl CpuStorage {
    /// Type of its elements.
    pub fn dtype(&self) -> DType {
        match self {
            CpuStorage::U8(_) => DType::U8,
            CpuStorage::I16(_) => DType::I16,
            CpuStorage::I32(_) => DType::I32,
            CpuStorage::U32(_) => DType::U32,
            CpuStorage::I64(_) => DType::I64,
            CpuStorage::BF16(_) => DType::BF16,
            CpuStorage::F16(_) => DType::F16,
            CpuStorage::F32(_) => DType::F32,
            CpuStorage::F64(_) => DType::F64,
        }
    }

    /// Its elements. Errors on another type.
    pub fn as_slice<T: WithDType>(&self) -> Result<&[T]> {
        T::slice(self).ok_or_else(|| wrong(T::DTYPE, self.dtype()))
    }

    /// Number of elements.
    pub(crate) fn len(&self) -> usize {
        each!(self, v => v.len())
    }
}

fn wrong(want: DType, got: DType) -> Error {
    Error::tensor(format!("a tensor of {got:?} was read as {want:?}"))
}

/// A Rust type of elements.
pub trait WithDType: Copy + Send + Sync + std::fmt::Debug + PartialOrd + 'static {
    /// Its name.
    const DTYPE: DType;
    /// A storage of these elements.
    fn store(v: Vec<Self>) -> CpuStorage;
    /// The elements of a storage of this type.
    fn slice(s: &CpuStorage) -> Option<&[Self]>;
    /// The elements of a storage of this type, to change.
    fn slice_mut(s: &mut CpuStorage) -> Option<&mut [Self]>;
    /// From a double, rounded.
    fn from_f64(v: f64) -> Self;
    /// To a double.
    fn to_f64(self) -> f64;
    /// From bytes in little-endian order, one element.
    fn get_le(bytes: &[u8]) -> Self;
    /// Appends its bytes in little-endian order.
    fn put_le(self, out: &mut Vec<u8>);
}

macro_rules! with_dtype {
    ($($t:ty, $name:ident, $from:expr, $to:expr;)*) => {$(
        impl WithDType for $t {
            const DTYPE: DType = DType::$name;
            fn store(v: Vec<Self>) -> CpuStorage {
                CpuStorage::$name(v)
            }
            fn slice(s: &CpuStorage) -> Option<&[Self]> {
                match s {
                    CpuStorage::$name(v) => Some(v),
                    _ => None,
                }
            }
            fn slice_mut(s: &mut CpuStorage) -> Option<&mut [Self]> {
                match s {
                    CpuStorage::$name(v) => Some(v),
                    _ => None,
                }
            }
            fn from_f64(v: f64) -> Self {
                $from(v)
            }
            fn to_f64(self) -> f64 {
                $to(self)
            }
            fn get_le(bytes: &[u8]) -> Self {
                let mut own = [0u8; size_of::<$t>()];
                own.copy_from_slice(bytes);
                <$t>::from_le_bytes(own)
            }
            fn put_le(self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}
with_dtype! {
    u8, U8, |v| v as u8, f64::from;
    i16, I16, |v| v as i16, f64::from;
    i32, I32, |v| v as i32, f64::from;
    u32, U32, |v| v as u32, f64::from;
    i64, I64, |v| v as i64, |v| v as f64;
    bf16, BF16, bf16::from_f64, bf16::to_f64;
    f16, F16, f16::from_f64, f16::to_f64;
    f32, F32, |v| v as f32, f64::from;
    f64, F64, |v| v, |v| v;
}

/// Converts elements; floats to whole numbers are cut off, and floats widen and narrow as the processor rounds.
pub(crate) fn convert<A: WithDType>(v: &[A], to: DType) -> CpuStorage {
    fn cast<A: WithDType, B: WithDType>(v: &[A]) -> CpuStorage {
        B::store(v.iter().map(|x| B::from_f64(x.to_f64())).collect())
    }
    match to {
        DType::U8 => cast::<A, u8>(v),
        DType::I16 => cast::<A, i16>(v),
        DType::I32 => cast::<A, i32>(v),
        DType::U32 => cast::<A, u32>(v),
        DType::I64 => cast::<A, i64>(v),
        DType::BF16 => cast::<A, bf16>(v),
        DType::F16 => cast::<A, f16>(v),
        DType::F32 => cast::<A, f32>(v),
        DType::F64 => cast::<A, f64>(v),
    }
}

/// Storage of a type from bytes in little-endian order. Errors when they do not divide into elements.
pub(crate) fn from_bytes(bytes: &[u8], dtype: DType) -> Result<CpuStorage> {
    fn read<T: WithDType>(bytes: &[u8]) -> CpuStorage {
        T::store(bytes.chunks_exact(size_of::<T>()).map(T::get_le).collect())
    }
    if !bytes.len().is_multiple_of(dtype.size_in_bytes()) {
        bail!("{} bytes do not divide into {dtype:?}", bytes.len());
    }
    Ok(match dtype {
        DType::U8 => read::<u8>(bytes),
        DType::I16 => read::<i16>(bytes),
        DType::I32 => read::<i32>(bytes),
        DType::U32 => read::<u32>(bytes),
        DType::I64 => read::<i64>(bytes),
        DType::BF16 => read::<bf16>(bytes),
        DType::F16 => read::<f16>(bytes),
        DType::F32 => read::<f32>(bytes),
        DType::F64 => read::<f64>(bytes),
    })
}
