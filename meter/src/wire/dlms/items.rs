//! The values of a push by OBIS code, as they stand in it: raw, with scaler and unit.

use super::super::WireError;
use super::field::Field;
use super::run::{Found, Sink, run};
use super::tree::{Tree, plain_tree};
use super::{Notification, Obis, Template, TemplateId, Templates};

/// A value and what it is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Item {
    /// What it is, where push or template say so.
    pub obis: Option<String>,
    /// The raw value.
    pub value: Tree,
    /// The decimal exponent to the unit.
    pub scaler: Option<i8>,
    /// The unit.
    pub unit: Option<&'static str>,
}

impl Item {
    pub(super) fn plain(code: Option<Obis>, value: Tree) -> Self {
        Self { obis: code.map(|code| code.to_string()), value, scaler: None, unit: None }
    }
}

/// The values of a push as the template names them; as the first template that fits, when none is
/// given; as the push itself names them, when none fits.
pub(super) fn of_push(
    push: &Notification<'_>,
    templates: &Templates,
    given: Option<TemplateId>,
) -> Vec<Item> {
    let listed = |template: &Template| {
        let mut listing = Listing(Vec::new());
        // What a broken body still said is worth showing; the caller has reported that it broke.
        let complete = run(template.form(), push.body, &mut listing).is_ok();
        (complete, listing.0)
    };
    if let Some(template) = given.and_then(|id| templates.get(id)) {
        return listed(template).1;
    }
    let fits = |template: &&Template| {
        template.begins(push.body)
            && template.run(push, |_| ()).is_ok()
            && !listed(template).1.is_empty()
    };
    let fallback = || templates.find(Templates::OBIS).and_then(|id| templates.get(id));
    templates
        .all()
        .find(fits)
        .or_else(fallback)
        .map(|template| listed(template).1)
        .unwrap_or_default()
}

/// Lists what a run finds.
struct Listing(Vec<Item>);

impl Sink for Listing {
    fn value(&mut self, found: Found<'_>, _: usize) -> Result<(), WireError> {
        let code = found.code.or_else(|| found.field.map(Field::code));
        let Some(code) = code else { return Ok(()) };
        let known = found.field.and_then(Field::unit);
        let unit = found.unit.or(known);
        self.0.push(Item {
            obis: Some(code.to_string()),
            value: plain_tree(found.value),
            scaler: found.scaler.or_else(|| known.map(|_| 0)),
            unit: unit.and_then(symbol),
        });
        Ok(())
    }

    fn row(&mut self) -> Result<u32, WireError> {
        Ok(1)
    }
}

/// The symbol of a DLMS unit; none for counts and units that no push here has.
const fn symbol(unit: u8) -> Option<&'static str> {
    Some(match unit {
        27 => "W",
        28 => "VA",
        29 => "var",
        30 => "Wh",
        31 => "VAh",
        32 => "varh",
        33 => "A",
        35 => "V",
        44 => "Hz",
        _ => return None,
    })
}
