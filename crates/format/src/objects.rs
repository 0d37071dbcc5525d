//! An object is an object: types are read from JSON or TOML without the latitude that serde leaves, which takes a list for
//! an object, field by field in the order of the source text.

use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};

/// Reads a type. A list in the place of an object is an error at any depth, which names the keys of the object.
///
/// # Errors
/// What the type refuses.
pub fn read<'de, T: serde::Deserialize<'de>, D: Deserializer<'de>>(d: D) -> Result<T, D::Error> {
    T::deserialize(Strict(d))
}

/// Reads by a function as [`read`] does by a type.
///
/// # Errors
/// Those of the function.
pub fn read_by<'de, T, D, F>(d: D, read: F) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    F: FnOnce(Strict<D>) -> Result<T, D::Error>,
{
    read(Strict(d))
}

/// A message of serde in the words of JSON.
pub fn words(message: &str) -> String {
    const WORDS: [(&str, &[&str]); 4] = [
        ("a whole number", &["u8", "u16", "u32", "u64", "usize", "i8", "i16", "i32", "i64", "isize"]),
        ("a number", &["f32", "f64"]),
        ("a list", &["a sequence"]),
        ("an object", &["a map", "struct variant"]),
    ];
    let mut text = message.trim_end().replace('\n', " ").replace("invalid type: sequence", "invalid type: a list");
    text = text.replace("invalid type: map", "invalid type: an object").replace("a tuple of size", "a list of");
    for (word, from) in WORDS {
        for name in from {
            let (whole, after) = (format!("expected {name}"), text.rfind(&format!("expected {name}")));
            let ends = |rest: &str| rest.chars().next().is_none_or(|c| !c.is_alphanumeric());
            if let Some(at) = after.filter(|at| ends(&text[at + whole.len()..])) {
                text.replace_range(at..at + whole.len(), &format!("expected {word}"));
            }
        }
    }
    text
}

/// Whatever is read through it, or from anything inside, follows the rule.
pub struct Strict<T>(T);

/// A visitor of an object with these keys.
struct Fields<V>(V, &'static [&'static str]);

impl<V> Fields<V> {
    fn refuse<E: Error>(&self, found: Unexpected) -> E {
        struct Wanted(&'static [&'static str]);
        impl serde::de::Expected for Wanted {
            fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
                match self.0 {
                    [] => f.write_str("an empty object"),
                    keys => write!(f, "an object with the keys {}", keys.join(", ")),
                }
            }
        }
        E::invalid_type(found, &Wanted(self.1))
    }
}

/// Methods that give the visitor on, wrapped.
macro_rules! forward {
    ($($method:ident($($arg:ident: $type:ty),*);)*) => {
        $(fn $method<V: Visitor<'de>>(self, $($arg: $type,)* v: V) -> Result<V::Value, D::Error> {
            self.0.$method($($arg,)* Strict(v))
        })*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Strict<D> {
    type Error = D::Error;
    forward! {
        deserialize_any(); deserialize_bool(); deserialize_i8(); deserialize_i16(); deserialize_i32(); deserialize_i64();
        deserialize_i128(); deserialize_u8(); deserialize_u16(); deserialize_u32(); deserialize_u64(); deserialize_u128();
        deserialize_f32(); deserialize_f64(); deserialize_char(); deserialize_str(); deserialize_string();
        deserialize_bytes(); deserialize_byte_buf(); deserialize_option(); deserialize_unit(); deserialize_seq();
        deserialize_map(); deserialize_identifier(); deserialize_ignored_any();
        deserialize_unit_struct(name: &'static str); deserialize_newtype_struct(name: &'static str);
        deserialize_tuple(n: usize); deserialize_tuple_struct(name: &'static str, n: usize);
        deserialize_enum(name: &'static str, variants: &'static [&'static str]);
    }
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        v: V,
    ) -> Result<V::Value, D::Error> {
        self.0.deserialize_struct(name, fields, Fields(v, fields))
    }
    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

/// Methods that give a plain value on.
macro_rules! values {
    ($($method:ident: $type:ty;)*) => {
        $(fn $method<E: Error>(self, x: $type) -> Result<V::Value, E> {
            self.0.$method(x)
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Strict<V> {
    type Value = V::Value;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        self.0.expecting(f)
    }
    values! {
        visit_bool: bool; visit_i64: i64; visit_i128: i128; visit_u64: u64; visit_u128: u128; visit_f64: f64;
        visit_char: char; visit_str: &str; visit_borrowed_str: &'de str; visit_string: String; visit_bytes: &[u8];
        visit_borrowed_bytes: &'de [u8]; visit_byte_buf: Vec<u8>;
    }
    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_none()
    }
    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        self.0.visit_unit()
    }
    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<V::Value, D::Error> {
        self.0.visit_some(Strict(d))
    }
    fn visit_newtype_struct<D: Deserializer<'de>>(self, d: D) -> Result<V::Value, D::Error> {
        self.0.visit_newtype_struct(Strict(d))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, a: A) -> Result<V::Value, A::Error> {
        self.0.visit_seq(Strict(a))
    }
    fn visit_map<A: MapAccess<'de>>(self, a: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Strict(a))
    }
    fn visit_enum<A: EnumAccess<'de>>(self, a: A) -> Result<V::Value, A::Error> {
        self.0.visit_enum(Strict(a))
    }
}

/// Plain values are no objects.
macro_rules! refused {
    ($($method:ident: $type:ty => $kind:ident;)*) => {
        $(fn $method<E: Error>(self, x: $type) -> Result<V::Value, E> {
            Err(self.refuse(Unexpected::$kind(x)))
        })*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Fields<V> {
    type Value = V::Value;
    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.1 {
            [] => f.write_str("an empty object"),
            keys => write!(f, "an object with the keys {}", keys.join(", ")),
        }
    }
    refused! {
        visit_bool: bool => Bool; visit_i64: i64 => Signed; visit_u64: u64 => Unsigned; visit_f64: f64 => Float;
        visit_str: &str => Str;
    }
    fn visit_unit<E: Error>(self) -> Result<V::Value, E> {
        Err(self.refuse(Unexpected::Unit))
    }
    fn visit_none<E: Error>(self) -> Result<V::Value, E> {
        Err(self.refuse(Unexpected::Unit))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<V::Value, A::Error> {
        Err(self.refuse(Unexpected::Seq))
    }
    fn visit_map<A: MapAccess<'de>>(self, a: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Strict(a))
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Strict<S> {
    type Value = S::Value;
    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<S::Value, D::Error> {
        self.0.deserialize(Strict(d))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Strict<A> {
    type Error = A::Error;
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_element_seed(Strict(seed))
    }
    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Strict<A> {
    type Error = A::Error;
    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        self.0.next_key_seed(Strict(seed))
    }
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        self.0.next_value_seed(Strict(seed))
    }
    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for Strict<A> {
    type Error = A::Error;
    type Variant = Strict<A::Variant>;
    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), A::Error> {
        self.0.variant_seed(Strict(seed)).map(|(value, variant)| (value, Strict(variant)))
    }
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for Strict<A> {
    type Error = A::Error;
    fn unit_variant(self) -> Result<(), A::Error> {
        self.0.unit_variant()
    }
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, A::Error> {
        self.0.newtype_variant_seed(Strict(seed))
    }
    fn tuple_variant<V: Visitor<'de>>(self, n: usize, v: V) -> Result<V::Value, A::Error> {
        self.0.tuple_variant(n, Strict(v))
    }
    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], v: V) -> Result<V::Value, A::Error> {
        self.0.struct_variant(fields, Fields(v, fields))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;
    use serde_json::{Value, json};

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Setting {
        keep: f64,
        #[serde(default)]
        at: Option<usize>,
    }

    #[derive(Debug, Deserialize, PartialEq)]
    #[serde(rename_all = "snake_case")]
    enum Kind {
        Plain,
        One(Setting),
        Open { keep: f64 },
    }

    #[derive(Debug, Default, Deserialize, PartialEq)]
    #[serde(default)]
    struct Outer {
        list: Vec<Setting>,
        by_name: BTreeMap<String, Setting>,
        maybe: Option<Setting>,
        kind: Option<Kind>,
        pair: Option<(f64, f64)>,
    }

    fn told(doc: &Value) -> String {
        super::words(&super::read::<Outer, _>(doc).unwrap_err().to_string())
    }

    #[test]
    fn a_list_is_no_object_at_any_depth() {
        let (one, wrong) = (json!({"keep": 0.5}), json!([0.5]));
        let places = |s: &Value| {
            [
                json!({"list": [s]}),
                json!({"by_name": {"a": s}}),
                json!({"maybe": s}),
                json!({"kind": {"one": s}}),
                json!({"kind": {"open": s}}),
            ]
        };
        for (good, bad) in places(&one).iter().zip(places(&wrong)) {
            assert_eq!(super::read::<Outer, _>(good).unwrap(), Outer::deserialize(good).unwrap());
            let e = told(&bad);
            assert!(e.contains("a list, expected an object"), "{e}");
            // From text too.
            let text = bad.to_string();
            assert!(super::read::<Outer, _>(&mut serde_json::Deserializer::from_str(&text)).is_err(), "{text}");
        }
        assert!(super::read::<Outer, _>(&json!([])).is_err());
        assert_eq!(super::read::<Kind, _>(&json!("plain")).unwrap(), Kind::Plain);
    }

    #[test]
    fn messages_hold_no_names_of_types() {
        for (doc, says) in [
            (json!({"maybe": 5}), "expected an object with the keys keep, at"),
            (json!({"maybe": {"keep": "x"}}), "expected a number"),
            (json!({"maybe": {"keep": 1, "at": -1}}), "expected a whole number"),
            (json!({"maybe": {"keep": 1, "att": 1}}), "expected `keep` or `at`"),
            (json!({"list": 5}), "expected a list"),
            (json!({"by_name": []}), "expected an object"),
            (json!({"pair": [1]}), "expected a list of 2"),
        ] {
            let e = told(&doc);
            assert!(
                e.contains(says) && !["struct", "usize", "f64", "sequence", "map"].iter().any(|w| e.contains(w)),
                "{e}"
            );
        }
    }
}
