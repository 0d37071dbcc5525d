//! What goes into a model: parts under Hugging Face's names, one or more entries a member.

use std::borrow::Cow;
use std::collections::BTreeMap;

use switchformer_tensor::{DType, Tensor};

use crate::config::MAX_SIDE;
use crate::error::{Error, Result};
use crate::init::Stream;
use crate::members::Members;
use crate::output::unpack;
use crate::rows::{Rows, Size};
use crate::spec::{InputSpec, Kind, Slot, missing, unknown};

/// Packed token ids: all members one after another.
#[derive(Clone, Debug)]
pub struct Ids {
    /// Token ids, `[total]`.
    pub ids: Vec<u32>,
    /// Column each token had in the padded tensor (its own index where there was none), `[total]`.
    pub columns: Vec<u32>,
    /// Members and their lengths.
    pub rows: Rows,
    /// Columns of the padded tensor.
    width: usize,
}

/// One part of an input.
#[derive(Clone, Debug)]
pub enum Part {
    /// Token ids.
    Ids(Ids),
    /// Images `[k, channels, h, w]`, f32: neighbours of one size in one tensor.
    Maps(Vec<Tensor>),
    /// One vector a row, `[total, width]`, f32.
    Rows(Tensor, Rows),
    /// One entry a member, `[n, ..]`, f32.
    PerMember(Tensor),
}

impl Part {
    /// Packs token sequences of unequal length.
    pub fn tokens<S: AsRef<[u32]>>(sequences: &[S]) -> Result<Part> {
        let rows = Rows::new(&sequences.iter().map(|s| s.as_ref().len()).collect::<Vec<_>>())?;
        let ids: Vec<u32> = sequences.iter().flat_map(|s| s.as_ref().iter().copied()).collect();
        Ok(Part::Ids(Ids { ids, columns: rows.positions().to_vec(), width: rows.max_len(), rows }))
    }

    /// Images of one size. Shapes: `[n, channels, h, w]`.
    pub fn pixels(pixels: Tensor) -> Part {
        Part::Maps(vec![pixels])
    }

    /// Images that may differ in size, each `[channels, h, w]`. Neighbours of one size are stacked.
    pub fn images(images: &[Tensor]) -> Result<Part> {
        let stack = |run: &[Tensor]| Tensor::stack(run, 0);
        Ok(Part::Maps(images.chunk_by(|a, b| a.dims() == b.dims()).map(stack).collect::<Result<_>>()?))
    }

    /// Number of entries.
    pub fn n(&self) -> usize {
        let of = |t: &Tensor| t.dims().first().copied().unwrap_or(0);
        match self {
            Part::Ids(Ids { rows, .. }) | Part::Rows(_, rows) => rows.n(),
            Part::Maps(maps) => maps.iter().map(of).sum(),
            Part::PerMember(t) => of(t),
        }
    }

    /// The entry of one member alone.
    fn one(&self, member: usize) -> Result<Part> {
        Ok(match self {
            Part::Ids(all) => {
                let range = all.rows.range(member);
                Part::Ids(Ids {
                    ids: all.ids[range.clone()].to_vec(),
                    columns: all.columns[range.clone()].to_vec(),
                    rows: all.rows.select(&[member]).1.of_members(&[0])?,
                    width: all.width,
                })
            }
            Part::Maps(maps) => {
                let mut before = 0;
                let run = maps.iter().find(|run| {
                    before += run.dims()[0];
                    member < before
                });
                let run = run.ok_or_else(|| Error::shape("image", format!("below {before}"), &[member]))?;
                Part::pixels(run.narrow(0, member + run.dims()[0] - before, 1)?)
            }
            Part::Rows(x, rows) => {
                let range = rows.range(member);
                Part::Rows(x.narrow(0, range.start, range.len())?, Rows::new(&[range.len()])?)
            }
            Part::PerMember(t) => Part::PerMember(t.narrow(0, member, 1)?),
        })
    }

    /// A part from the tensor of a slot. Shapes: as [`Kind`] says; mask `[b, n]`, whose zeros disappear here.
    fn read(slot: &Slot, t: &Tensor, mask: Option<(&str, &Tensor)>) -> Result<Part> {
        let shape = |want: String| Error::shape(slot.name, want, t.dims());
        Ok(match &slot.kind {
            Kind::Ids { .. } => {
                let (n, len) = t.dims2().map_err(|_| shape("[b, n]".into()))?;
                let (columns, rows) = valid(mask, n, len)?;
                let raw = whole_numbers(slot.name, t)?;
                let at = |i: usize| rows.range(i).map(move |r| (i, r));
                let ids = (0..n).flat_map(at).map(|(i, r)| {
                    let v = raw[i * len + columns[r] as usize];
                    let what = || Error::input(format!("{} holds {v}", slot.name), "ids are whole numbers from 0");
                    u32::try_from(v).map_err(|_| what())
                });
                Part::Ids(Ids { ids: ids.collect::<Result<_>>()?, columns, rows, width: len })
            }
            Kind::Maps { .. } => Part::pixels(t.to_dtype(DType::F32)?),
            Kind::Rows { width } => {
                let (n, len) = match t.dims() {
                    [n, len, w] if w == width => (*n, *len),
                    _ => return Err(shape(format!("[b, n, {width}]"))),
                };
                let (columns, rows) = valid(mask, n, len)?;
                let at = |i: usize| rows.range(i).map(move |r| (i, r));
                let index: Vec<u32> = (0..n).flat_map(at).map(|(i, r)| (i * len) as u32 + columns[r]).collect();
                let index = Tensor::from_vec(index, rows.total())?;
                let x = t.to_dtype(DType::F32)?.reshape((n * len, *width))?.index_select(&index, 0)?;
                Part::Rows(x, rows.at_positions(&columns)?)
            }
            Kind::PerMember { shape: own } => match t.dims() {
                [_, rest @ ..] if rest == own.as_slice() => Part::PerMember(t.to_dtype(DType::F32)?),
                _ => return Err(shape(format!("[n, ..{own:?}]"))),
            },
        })
    }
}

fn whole_numbers(name: &str, t: &Tensor) -> Result<Vec<i64>> {
    if t.dtype().is_float() {
        let floats: Vec<f64> = t.to_dtype(DType::F64)?.flatten_all()?.to_vec1()?;
        if let Some(bad) = floats.iter().find(|v| v.fract() != 0.0) {
            return Err(Error::input(format!("{name} holds {bad}"), "give whole numbers"));
        }
    }
    t.to_dtype(DType::I64)?.flatten_all()?.to_vec1()
}

/// Columns of the valid places of a padded tensor `[b, n]`, member by member, and their rows.
fn valid(mask: Option<(&str, &Tensor)>, n: usize, len: usize) -> Result<(Vec<u32>, Rows)> {
    let Some((name, mask)) = mask else {
        let columns = (0..n).flat_map(|_| 0..len as u32).collect();
        return Ok((columns, Rows::equal(n, len)?));
    };
    if mask.dims() != [n, len] {
        return Err(Error::shape(name, format!("[{n}, {len}]"), mask.dims()));
    }
    let mask = whole_numbers(name, mask)?;
    if let Some(bad) = mask.iter().find(|m| !(0..=1).contains(*m)) {
        return Err(Error::input(format!("{name} holds {bad}"), "use 1 for valid and 0 for padding"));
    }
    let (mut columns, mut lens) = (Vec::new(), Vec::with_capacity(n));
    for i in 0..n {
        let before = columns.len();
        columns.extend((0..len).filter(|c| mask[i * len + c] == 1).map(|c| c as u32));
        lens.push(columns.len() - before);
    }
    Ok((columns, Rows::new(&lens)?))
}

/// Input of a model: named parts, and whose they are.
#[derive(Clone, Debug)]
pub struct Input {
    n: usize,
    parts: BTreeMap<&'static str, Part>,
    members: Members,
}

impl Input {
    /// An input of one part, which says how many members there are.
    pub fn new(name: &'static str, part: Part) -> Input {
        Input { n: part.n(), parts: BTreeMap::from([(name, part)]), members: Members::default() }
    }

    /// Token sequences of unequal length, `input_ids`.
    pub fn tokens<S: AsRef<[u32]>>(sequences: &[S]) -> Result<Input> {
        Ok(Input::new("input_ids", Part::tokens(sequences)?))
    }

    /// Padded tensors as Hugging Face passes them. Shapes: all `[b, n]`; places with mask 0 disappear here.
    pub fn padded(ids: &Tensor, mask: Option<&Tensor>, types: Option<&Tensor>) -> Result<Input> {
        let given = [("input_ids", Some(ids)), ("attention_mask", mask), ("token_type_ids", types)];
        let given = given.into_iter().filter_map(|(name, t)| Some((name.to_string(), t?.clone()))).collect();
        // Tables say which ids there are.
        Input::from_tensors(&given, &InputSpec::text(usize::MAX, usize::MAX).with_types(usize::MAX))
    }

    /// Images of one size, `pixel_values`. Shapes: `[n, channels, h, w]`, f32, already normalised.
    pub fn pixel_values(pixels: Tensor) -> Input {
        Input::new("pixel_values", Part::pixels(pixels))
    }

    /// Images that may differ in size, `pixel_values`, each `[channels, h, w]`, f32, already normalised.
    pub fn images(images: &[Tensor]) -> Result<Input> {
        Ok(Input::new("pixel_values", Part::images(images)?))
    }

    /// A text to read and a text being written: the `input_ids` of the second become `decoder_input_ids`.
    pub fn pair(source: Input, mut target: Input) -> Result<Input> {
        let text = target.parts.remove("input_ids").ok_or_else(|| missing("input_ids"))?;
        if let Some(other) = target.parts.keys().next() {
            return Err(Error::input(format!("a text to write with {other}"), "give its input_ids alone"));
        }
        source.ids("input_ids")?;
        source.with("decoder_input_ids", text)
    }

    /// This input with one more part. Errors unless it is new and has an entry for every member.
    pub fn with(mut self, name: &'static str, part: Part) -> Result<Input> {
        if part.n() != self.n {
            let what = format!("{name} has {} entries for {} members", part.n(), self.n);
            let other = self.parts.keys().next().copied().unwrap_or_default();
            return Err(Error::input(what, format!("{other} and {name} need the same number of rows")));
        }
        if self.parts.insert(name, part).is_some() {
            return Err(Error::input(format!("{name} is given twice"), "give one of them"));
        }
        Ok(self)
    }

    /// This input with one more part of any number of entries: the other side of a comparison, such as the images that
    /// texts are compared with. Members are those of the first part.
    pub fn beside(mut self, name: &'static str, part: Part) -> Input {
        self.parts.insert(name, part);
        self
    }

    /// This input, of whose texts the first `first[i]` tokens of member `i` alone are looked at; see [`Rows::seen_first`].
    pub fn seen_first(mut self, first: &[usize]) -> Result<Input> {
        for part in self.parts.values_mut() {
            if let Part::Ids(ids) = part {
                ids.rows = ids.rows.clone().seen_first(first)?;
            }
        }
        Ok(self)
    }

    /// This input for members with identities of their own. Errors unless there are as many.
    pub fn of_members(self, members: Members) -> Result<Input> {
        match members.n() {
            Some(n) if n != self.n => Err(Error::shape("members", format!("[{}]", self.n), &[n])),
            _ => Ok(Input { members, ..self }),
        }
    }

    /// Number of members.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Who the members are.
    pub fn members(&self) -> &Members {
        &self.members
    }

    /// The parts by name.
    pub fn parts(&self) -> &BTreeMap<&'static str, Part> {
        &self.parts
    }

    /// One member alone, as the same place of its request. Parts that have a number of their own stay whole.
    pub fn member(&self, member: usize) -> Result<Input> {
        if member >= self.n {
            return Err(Error::input(format!("no member {member} of {}", self.n), "count from 0"));
        }
        let one = |(name, part): (&&'static str, &Part)| {
            Ok((*name, if part.n() == self.n { part.one(member)? } else { part.clone() }))
        };
        let parts = self.parts.iter().map(one).collect::<Result<_>>()?;
        Ok(Input { n: 1, parts, members: self.members.one(member) })
    }

    /// Token ids by name.
    pub fn ids(&self, name: &str) -> Result<&Ids> {
        match self.parts.get(name) {
            Some(Part::Ids(ids)) => Ok(ids),
            _ => Err(missing(name)),
        }
    }

    /// Segment ids of `input_ids`, zeros where none are given. Errors unless every token has one.
    pub fn token_types(&self) -> Result<Cow<'_, [u32]>> {
        let ids = self.ids("input_ids")?;
        match self.parts.get("token_type_ids") {
            None => Ok(vec![0; ids.ids.len()].into()),
            Some(Part::Ids(types)) if types.rows == ids.rows => Ok(Cow::from(types.ids.as_slice())),
            Some(other) => Err(Error::shape("token_type_ids", "one for each of input_ids", &[other.n()])),
        }
    }

    /// The images, neighbours of one size together: `[k, channels, h, w]` each. Errors on anything else.
    pub fn pixels(&self, channels: usize) -> Result<&[Tensor]> {
        let Some(Part::Maps(all)) = self.parts.get("pixel_values") else { return Err(missing("pixel_values")) };
        for pixels in all {
            if pixels.dtype() != DType::F32 {
                let what = format!("pixel_values are {:?}", pixels.dtype());
                return Err(Error::input(
                    what,
                    "give F32, normalised as the checkpoint's preprocessor_config.json says",
                ));
            }
            match pixels.dims() {
                [_, c, h, w] if *c == channels && [h, w].iter().any(|n| !(1..=MAX_SIDE).contains(*n)) => {
                    return Err(Error::input(
                        format!("an image of {h}x{w} has a side outside 1 to {MAX_SIDE}"),
                        "resize it as the checkpoint's preprocessor_config.json says",
                    ));
                }
                [_, c, _, _] if *c == channels => {}
                other => return Err(Error::shape("pixel_values", format!("[b, {channels}, h, w]"), other)),
            }
        }
        if all.is_empty() { Err(Error::input("pixel_values hold no image", "give at least one")) } else { Ok(all) }
    }

    /// Height and width of every image.
    pub fn image_sizes(&self, channels: usize) -> Result<Vec<Size>> {
        let runs = self.pixels(channels)?.iter().map(Tensor::dims);
        Ok(runs.flat_map(|dims| std::iter::repeat_n((dims[2], dims[3]), dims[0])).collect())
    }

    /// A part with one vector a row, `[total, width]`.
    pub fn rows(&self, name: &str) -> Result<(&Tensor, &Rows)> {
        match self.parts.get(name) {
            Some(Part::Rows(x, rows)) => Ok((x, rows)),
            _ => Err(missing(name)),
        }
    }

    /// A part with one entry a member, `[n, ..]`.
    pub fn per_member(&self, name: &str) -> Result<&Tensor> {
        match self.parts.get(name) {
            Some(Part::PerMember(t)) => Ok(t),
            _ => Err(missing(name)),
        }
    }

    /// Errors where a part is missing that a model needs, or one is given that it does not take.
    pub fn check(&self, spec: &InputSpec) -> Result<()> {
        if let Some(slot) = spec.slots().iter().find(|s| !s.optional && !self.parts.contains_key(s.name)) {
            return Err(missing(slot.name));
        }
        match self.parts.keys().find(|name| !spec.takes(name)) {
            Some(other) => Err(unknown(other, spec)),
            None => Ok(()),
        }
    }

    /// An input from tensors under the names of a model's slots and of their masks. Errors name what is missing, what
    /// is unknown and what the model takes.
    pub fn from_tensors(tensors: &BTreeMap<String, Tensor>, spec: &InputSpec) -> Result<Input> {
        let mask_of = |slot: &Slot| slot.mask.and_then(|name| Some((name, tensors.get(name)?)));
        let names = || spec.slots().iter().flat_map(|s| [Some(s.name), s.mask]).flatten();
        if let Some(bad) = tensors.keys().find(|k| names().all(|n| n != k.as_str())) {
            return Err(unknown(bad, spec));
        }
        let mut input: Option<Input> = None;
        for slot in spec.slots() {
            let Some(t) = tensors.get(slot.name) else {
                match mask_of(slot) {
                    Some((mask, _)) if slot.optional && slot.along.is_none() => {
                        return Err(Error::input(format!("{mask} without {}", slot.name), "give both or none"));
                    }
                    _ if slot.optional => continue,
                    _ => return Err(missing(slot.name)),
                }
            };
            if let Some(other) = slot.along.and_then(|other| tensors.get(other)).filter(|o| o.dims() != t.dims()) {
                return Err(Error::shape(slot.name, format!("{:?}", other.dims()), t.dims()));
            }
            let part = Part::read(slot, t, mask_of(slot))?;
            input = Some(match input {
                None => Input::new(slot.name, part),
                Some(input) if slot.own_number => input.beside(slot.name, part),
                Some(input) => input.with(slot.name, part)?,
            });
        }
        input.ok_or_else(|| Error::input("nothing is given", format!("this model takes {spec}")))
    }

    /// An input for every slot that a model needs: texts of these lengths, or as many images of `image` pixels (of the
    /// trained size where absent). Numbers are drawn from `stream`; all are zero where it is absent.
    pub fn sample(spec: &InputSpec, lens: &[usize], image: Option<Size>, stream: Option<&Stream>) -> Result<Input> {
        let n = lens.len();
        let floats = |shape: Vec<usize>| -> Result<Tensor> {
            let Some(mut stream) = stream.cloned() else {
                // Nothing is stored for what is zero everywhere: the size is the config's own.
                return Tensor::zeros(vec![1; shape.len()], DType::F32)?.broadcast_as(shape);
            };
            let data: Vec<f32> = (0..shape.iter().product()).map(|_| 2.0 * stream.unit() - 1.0).collect();
            Tensor::from_vec(data, shape)
        };
        let mut input: Option<Input> = None;
        for slot in spec.slots().iter().filter(|s| !s.optional) {
            let part = match &slot.kind {
                // The first ids are special in every published vocabulary.
                Kind::Ids { vocab, .. } => {
                    let mut draw = stream.cloned();
                    let half = vocab / 2;
                    let mut id = || draw.as_mut().map_or(0, |s| (half as u64 + s.below(half.max(1) as u64)) as u32);
                    Part::tokens(&lens.iter().map(|l| (0..*l).map(|_| id()).collect()).collect::<Vec<Vec<u32>>>())?
                }
                Kind::Maps { channels, size, .. } => {
                    let (h, w) = image.unwrap_or(*size);
                    Part::pixels(floats(vec![n, *channels, h, w])?)
                }
                Kind::Rows { width } => {
                    let rows = Rows::new(lens)?;
                    Part::Rows(floats(vec![rows.total(), *width])?, rows)
                }
                Kind::PerMember { shape } => Part::PerMember(floats([&[n], shape.as_slice()].concat())?),
            };
            input = Some(match input {
                None => Input::new(slot.name, part),
                Some(input) => input.with(slot.name, part)?,
            });
        }
        input.ok_or_else(|| Error::input("this model takes nothing", "a model needs at least one slot"))
    }

    /// The part that the rows of an output stand for: `encoder_last_hidden_state` belongs to what was read, everything
    /// else to what is being written, where there is both.
    fn part_of(&self, output: &str) -> Option<&Part> {
        let read = output == "encoder_last_hidden_state";
        let written = self.parts.get("decoder_input_ids").filter(|_| !read);
        written.or_else(|| self.parts.get("input_ids")).or_else(|| self.parts.values().next())
    }

    /// Rows of the part that an output stands for, where it has rows.
    pub fn rows_of(&self, output: &str) -> Option<&Rows> {
        match self.part_of(output)? {
            Part::Ids(Ids { rows, .. }) | Part::Rows(_, rows) => Some(rows),
            Part::Maps(_) | Part::PerMember(_) => None,
        }
    }

    /// Spreads the packed rows of an output to the places they had in the padded tensor of the part that it belongs to,
    /// zeros where there is no row. Shapes: `[total, ..]` -> `[members of rows, width, ..]`.
    pub fn unpack(&self, output: &str, t: &Tensor, rows: &Rows) -> Result<Tensor> {
        if let Some(Part::Ids(part)) = self.part_of(output) {
            let own = |i: usize| {
                let range =
                    (rows.members()[i] < part.rows.n() as u32).then(|| part.rows.range(rows.members()[i] as usize));
                range.filter(|r| r.len() == rows.len(i)).map(|r| &part.columns[r])
            };
            let columns: Option<Vec<&[u32]>> = (0..rows.n()).map(own).collect();
            if let Some(columns) = columns {
                return unpack(t, rows, &columns.concat(), part.width);
            }
        }
        let width = rows.positions().iter().max().map_or(0, |last| *last as usize + 1);
        unpack(t, rows, rows.positions(), width)
    }
}
