//! What a captured frame says, as a tree for people and tests: any framing, damaged captures too.
//!
//! Nothing here is on the path of a reading. It is lenient where that path is strict: a wrong check
//! sum or bytes behind a frame become a remark when the content reads well all the same, and a
//! ciphered frame that was cut short still shows its header.

use super::super::{Fault, WireError};
use super::items::{self, Item};
use super::tree::{Tree, hex, value_tree};
use super::unwrap::{self, Unwrapped};
use super::{
    Assembly, Association, AssociationKind, Attribute, Block, Ciphered, DateTime, Fetched,
    Initiate, InvokeId, Keys, Notification, Obis, SecurityControl, Service, TemplateId, Templates,
    tag,
};

/// What a frame says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Explained {
    /// How the APDU was wrapped: `hdlc`, `wrapper`, `mbus`, `llc` or `apdu`.
    pub framing: &'static str,
    /// The APDU: for a push invoke id, date-time and body; for a ciphered one without key its
    /// header.
    pub decoded: Tree,
    /// The protection, when it was opened with the keys.
    pub ciphering: Option<Tree>,
    /// The whole APDU, where the frame is a block of one and the others follow it.
    pub reassembled: Option<Tree>,
    /// The values by OBIS code.
    pub items: Vec<Item>,
    /// What is not as it should be.
    pub remarks: Vec<String>,
}

/// Explains the frames of a capture one after the other: an answer means what its request asked.
#[derive(Debug)]
pub struct Explainer {
    keys: Option<([u8; 16], [u8; 16])>,
    templates: Templates,
    template: Option<TemplateId>,
    /// The titles of an association: of who asked for it, and of who granted it.
    client: Option<[u8; 8]>,
    server: Option<[u8; 8]>,
    /// What the requests asked for, by invoke id.
    asked: [Option<Attribute>; 16],
}

const APDU_SIZE_MAX: usize = 65_536;

impl Explainer {
    /// One that opens ciphered frames with these keys (encryption, authentication), if any, and
    /// reads positional lists by this template, or by the first that fits.
    #[must_use]
    pub const fn new(
        keys: Option<([u8; 16], [u8; 16])>,
        templates: Templates,
        template: Option<TemplateId>,
    ) -> Self {
        Self { keys, templates, template, client: None, server: None, asked: [None; 16] }
    }

    /// What `frame` says.
    ///
    /// # Errors
    /// [`WireError`], with an offset into `frame` (into the APDU, when that came in pieces).
    pub fn explain(&mut self, frame: &[u8]) -> Result<Explained, WireError> {
        let mut unwrapped = unwrap::unwrap(frame)?;
        let mut explained = Explained {
            framing: unwrapped.framing,
            decoded: Tree::Null,
            ciphering: None,
            reassembled: None,
            items: Vec::new(),
            remarks: std::mem::take(&mut unwrapped.remarks),
        };
        if let Some(link) = unwrapped.link {
            explained.decoded = link;
            return Ok(explained);
        }
        match self.apdu(&unwrapped, &mut explained) {
            Ok(()) => Ok(explained),
            // A damaged frame is the better explanation of what does not read.
            Err(error) => Err(unwrapped.damage.unwrap_or_else(|| error.shifted(unwrapped.base))),
        }
    }

    fn apdu(&mut self, unwrapped: &Unwrapped, explained: &mut Explained) -> Result<(), WireError> {
        let Some(first) = unwrapped.apdus.first() else {
            return Err(WireError::new(Fault::Missing("apdu"), 0));
        };
        if first.first() == Some(&tag::GENERAL_BLOCK_TRANSFER) {
            return self.blocks(&unwrapped.apdus, explained);
        }
        explained.decoded = self.decoded(first, unwrapped.is_cut, explained)?;
        Ok(())
    }

    /// The first block as it is; and what it and the blocks behind it make up.
    fn blocks(&mut self, apdus: &[Vec<u8>], explained: &mut Explained) -> Result<(), WireError> {
        let mut assembly = Assembly::new(APDU_SIZE_MAX);
        for apdu in apdus {
            let block = Block::parse(apdu)?;
            if explained.decoded == Tree::Null {
                explained.decoded = block_tree(&block);
            }
            match assembly.block(&block) {
                Ok(None) => {}
                Ok(Some(whole)) => {
                    let whole = whole.to_vec();
                    explained.reassembled = Some(self.decoded(&whole, false, explained)?);
                    return Ok(());
                }
                Err(error) => {
                    explained.remarks.push(format!("not put together: {error}"));
                    return Ok(());
                }
            }
        }
        explained.remarks.push("blocks are missing at the end".to_owned());
        Ok(())
    }

    /// The APDU as a tree; values go to the items, an opened protection to the explanation.
    fn decoded(
        &mut self,
        apdu: &[u8],
        is_cut: bool,
        explained: &mut Explained,
    ) -> Result<Tree, WireError> {
        let tag = *apdu.first().ok_or(WireError::new(Fault::Truncated { missing: 1 }, 0))?;
        if Ciphered::is(tag) {
            return self.ciphered(apdu, explained);
        }
        if is_cut {
            return Err(WireError::new(Fault::Truncated { missing: 1 }, apdu.len()));
        }
        match tag {
            tag::DATA_NOTIFICATION => {
                let push = Notification::parse(apdu)?;
                let body_at = apdu.len().saturating_sub(push.body.len());
                let body = value_tree(push.body).map_err(|error| error.shifted(body_at))?;
                explained.items = items::of_push(&push, &self.templates, self.template);
                Ok(notification_tree(push.invoke_id, push.date_time, Some(body)))
            }
            tag::DATA_NOTIFICATION_CONFIRM => {
                let (invoke_id, date_time) = Notification::parse_confirmation(apdu)?;
                Ok(notification_tree(invoke_id, date_time, None))
            }
            _ if Association::is(tag) => self.association(apdu),
            _ if Service::is(tag) => self.service(&Service::parse(apdu)?, explained),
            other => Err(WireError::new(Fault::Apdu(other), 0)),
        }
    }

    fn ciphered(&mut self, apdu: &[u8], explained: &mut Explained) -> Result<Tree, WireError> {
        let header = Ciphered::peek_cut(apdu)?;
        let tree = ciphered_tree(&header, apdu);
        let whole = Ciphered::peek(apdu);
        let title =
            header.title.or_else(|| if is_answer(header.tag) { self.server } else { self.client });
        let (Some((encryption, authentication)), Some(title)) = (&self.keys, title) else {
            if let Err(error) = whole {
                explained.remarks.push(error.to_string());
            }
            return Ok(tree);
        };
        let keys = Keys { encryption, authentication };
        let header = whole?;
        let mut buf = apdu.to_vec();
        let plain = if header.control == SecurityControl::ENCRYPTED {
            header.open_unauthenticated(&mut buf, title, keys)?
        } else {
            header.open(&mut buf, title, keys)?
        };
        explained.ciphering = Some(tree);
        let plain = plain.to_vec();
        self.decoded(&plain, false, explained)
    }

    fn association(&mut self, apdu: &[u8]) -> Result<Tree, WireError> {
        let association = Association::parse(apdu)?;
        let (name, direction, service) = match association.kind {
            AssociationKind::Aarq => {
                self.client = association.title;
                ("aarq", TO_SERVER, "AARQ")
            }
            AssociationKind::Aare => {
                self.server = association.title;
                ("aare", TO_CLIENT, "AARQ")
            }
            AssociationKind::Rlrq => ("rlrq", TO_SERVER, "RLRQ"),
            AssociationKind::Rlre => ("rlre", TO_CLIENT, "RLRQ"),
        };
        let mut fields = service_head(name, direction, service.to_owned());
        let mut number = |name, value: Option<u8>| {
            fields.extend(value.map(|value| (name, Tree::Unsigned(value.into()))));
        };
        number("context", association.context);
        number("mechanism", association.mechanism);
        number("result", association.result);
        number("diagnostic", association.diagnostic);
        number("reason", association.reason);
        let mut bytes = |name, value: Option<&[u8]>| {
            fields.extend(value.map(|value| (name, Tree::Text(hex(value)))));
        };
        bytes("system_title", association.title.as_ref().map(|title| &title[..]));
        bytes("authentication", association.authentication);
        match association.user_information.map(Initiate::parse) {
            Some(Ok(initiate)) => {
                fields.push(("conformance", Tree::Text(format!("{:06x}", initiate.conformance))));
                fields.push(("pdu_size_max", Tree::Unsigned(initiate.pdu_size_max.into())));
            }
            // Ciphered: its own header says how.
            Some(Err(_)) => bytes("user_information", association.user_information),
            None => {}
        }
        Ok(Tree::Map(fields))
    }

    fn service(
        &mut self,
        service: &Service<'_>,
        explained: &mut Explained,
    ) -> Result<Tree, WireError> {
        match *service {
            Service::GetRequest { invoke, attribute, .. } => {
                self.ask(invoke.id(), Some(attribute));
                Ok(request("get-request", "GET", attribute, invoke.0, None))
            }
            Service::GetNextRequest { invoke, block } => {
                let mut fields = service_head("get-request-next", TO_SERVER, "GET".to_owned());
                fields.push(("invoke_id", Tree::Text(hex(&[invoke.0]))));
                fields.push(("block", Tree::Unsigned(block.into())));
                Ok(Tree::Map(fields))
            }
            Service::GetListRequest { invoke, attributes } => {
                self.ask(invoke.id(), None);
                Ok(raw("get-request-with-list", TO_SERVER, "GET", invoke.0, attributes))
            }
            Service::GetResponse { invoke, result } => {
                self.answer("get-response", "GET", invoke.0, result, explained)
            }
            Service::GetBlockResponse { invoke, is_last, block, result } => {
                let mut fields = service_head("get-response-block", TO_CLIENT, "GET".to_owned());
                fields.push(("invoke_id", Tree::Text(hex(&[invoke.0]))));
                fields.push(("last", Tree::Bool(is_last)));
                fields.push(("block", Tree::Unsigned(block.into())));
                fields.push(match result {
                    Ok(piece) => ("len", Tree::unsigned(piece.len())),
                    Err(code) => ("error", Tree::Unsigned(code.into())),
                });
                Ok(Tree::Map(fields))
            }
            Service::GetListResponse { invoke, results } => {
                Ok(raw("get-response-with-list", TO_CLIENT, "GET", invoke.0, results))
            }
            Service::SetRequest { invoke, attribute, data, .. } => {
                self.ask(invoke.id(), Some(attribute));
                Ok(request("set-request", "SET", attribute, invoke.0, Some(value_tree(data)?)))
            }
            Service::SetResponse { invoke, result } => {
                Ok(self.outcome("set-response", "SET", invoke.0, result))
            }
            Service::ActionRequest { invoke, method, parameter } => {
                self.ask(invoke.id(), Some(method));
                let parameter = parameter.map(value_tree).transpose()?;
                Ok(request("action-request", "ACTION", method, invoke.0, parameter))
            }
            Service::ActionResponse { invoke, result, returned: None } => {
                Ok(self.outcome("action-response", "ACTION", invoke.0, result))
            }
            Service::ActionResponse { invoke, returned: Some(fetched), .. } => {
                self.answer("action-response", "ACTION", invoke.0, fetched, explained)
            }
            Service::EventNotification { attribute, data, .. } => {
                let value = value_tree(data)?;
                explained.items = vec![Item::plain(Some(attribute.code), value.clone())];
                let name = "event-notification";
                let mut fields = service_head(name, TO_HEAD_END, label("EVENT", Some(attribute)));
                fields.extend(attribute_fields(attribute));
                fields.push(("value", value));
                Ok(Tree::Map(fields))
            }
            Service::ExceptionResponse { state, service, counter } => {
                let mut fields =
                    service_head("exception-response", TO_CLIENT, "EXCEPTION".to_owned());
                fields.push(("state_error", Tree::Unsigned(state.into())));
                fields.push(("service_error", Tree::Unsigned(service.into())));
                fields.extend(counter.map(|n| ("invocation_counter", Tree::Unsigned(n.into()))));
                Ok(Tree::Map(fields))
            }
        }
    }

    fn ask(&mut self, id: u8, attribute: Option<Attribute>) {
        if let Some(slot) = self.asked.get_mut(usize::from(id)) {
            *slot = attribute;
        }
    }

    fn asked(&self, invoke: u8) -> Option<Attribute> {
        self.asked.get(usize::from(invoke & 0x0F)).copied().flatten()
    }

    /// An answer with a value, or why there is none.
    fn answer(
        &self,
        name: &'static str,
        verb: &'static str,
        invoke: u8,
        result: Fetched<'_>,
        explained: &mut Explained,
    ) -> Result<Tree, WireError> {
        let asked = self.asked(invoke);
        let mut fields = service_head(name, TO_CLIENT, label(verb, asked));
        fields.push(("invoke_id", Tree::Text(hex(&[invoke]))));
        match result {
            Ok(data) => {
                let value = value_tree(data)?;
                explained.items = vec![Item::plain(asked.map(|asked| asked.code), value.clone())];
                fields.push(("value", value));
            }
            Err(code) => fields.push(("error", Tree::Unsigned(code.into()))),
        }
        Ok(Tree::Map(fields))
    }

    /// An answer without a value.
    fn outcome(&self, name: &'static str, verb: &'static str, invoke: u8, result: u8) -> Tree {
        let mut fields = service_head(name, TO_CLIENT, label(verb, self.asked(invoke)));
        fields.push(("invoke_id", Tree::Text(hex(&[invoke]))));
        fields.push(("result", Tree::Unsigned(result.into())));
        Tree::Map(fields)
    }
}

const TO_SERVER: &str = "C->S";
const TO_CLIENT: &str = "S->C";
const TO_HEAD_END: &str = "M->H";

/// Whether a glo-… or ded-… service is one that meters send.
const fn is_answer(tag: u8) -> bool {
    matches!(tag, 0xCA | 0xCC | 0xCD | 0xCF | 0xD2 | 0xD4 | 0xD5 | 0xD7)
}

fn service_head(
    name: &'static str,
    direction: &'static str,
    service: String,
) -> Vec<(&'static str, Tree)> {
    vec![
        ("apdu", Tree::text(name)),
        ("dir", Tree::text(direction)),
        ("service", Tree::Text(service)),
    ]
}

fn attribute_fields(attribute: Attribute) -> [(&'static str, Tree); 3] {
    [
        ("class", Tree::Unsigned(attribute.class.into())),
        ("obis", Tree::text(attribute.code)),
        ("attribute", Tree::Integer(attribute.index.into())),
    ]
}

fn request(
    name: &'static str,
    verb: &'static str,
    attribute: Attribute,
    invoke: u8,
    value: Option<Tree>,
) -> Tree {
    let mut fields = service_head(name, TO_SERVER, label(verb, Some(attribute)));
    fields.push(("invoke_id", Tree::Text(hex(&[invoke]))));
    fields.extend(attribute_fields(attribute));
    fields.extend(value.map(|value| ("value", value)));
    Tree::Map(fields)
}

fn raw(
    name: &'static str,
    direction: &'static str,
    verb: &'static str,
    invoke: u8,
    rest: &[u8],
) -> Tree {
    let mut fields = service_head(name, direction, verb.to_owned());
    fields.push(("invoke_id", Tree::Text(hex(&[invoke]))));
    fields.push(("raw", Tree::Text(hex(rest))));
    Tree::Map(fields)
}

/// What people call it: "GET 1.0.1.8.0.255", "GET clock", "ACTION remote_disconnect".
fn label(verb: &str, attribute: Option<Attribute>) -> String {
    let Some(Attribute { class, code, index }) = attribute else { return verb.to_owned() };
    let Obis([a, b, c, d, e, f]) = code;
    let dotted = format!("{a}.{b}.{c}.{d}.{e}.{f}");
    let name = match (verb, class, index) {
        ("GET" | "SET", 8, 2) => "clock",
        ("GET", 70, 3) => "control_state",
        ("GET", 7, 2) => "buffer",
        ("GET", 7, 3) => "capture_objects",
        ("GET", 115, 6) => "token status",
        ("ACTION", 70, 1) => "remote_disconnect",
        ("ACTION", 70, 2) => "remote_reconnect",
        ("ACTION", 115, 1) => "token_gateway.enter",
        ("ACTION", 18, 1) => "image_transfer_initiate",
        ("ACTION", 18, 2) => "image_block_transfer",
        ("ACTION", 15, 1) => return "HLS pass 3/4".to_owned(),
        ("GET", 3 | 4, 3) => return format!("{verb} scaler {dotted}"),
        (_, _, 2) => &dotted,
        _ => return format!("{verb} {dotted} attribute {index}"),
    };
    format!("{verb} {name}")
}

fn block_tree(block: &Block<'_>) -> Tree {
    Tree::Map(vec![
        ("apdu", Tree::text("general-block-transfer")),
        ("block_control", Tree::Text(hex(&[block.control]))),
        ("block", Tree::Unsigned(block.number.into())),
        ("ack", Tree::Unsigned(block.acknowledged.into())),
        ("len", Tree::unsigned(block.piece.len())),
    ])
}

fn ciphered_tree(header: &Ciphered, apdu: &[u8]) -> Tree {
    let name = match header.tag {
        tag::GENERAL_GLO_CIPHERING => "general-glo-ciphering",
        tag::GENERAL_DED_CIPHERING => "general-ded-ciphering",
        0xC8 => "glo-get-request",
        0xC9 => "glo-set-request",
        0xCA => "glo-event-notification-request",
        0xCB => "glo-action-request",
        0xCC => "glo-get-response",
        0xCD => "glo-set-response",
        0xCF => "glo-action-response",
        _ => "ded-ciphering",
    };
    let mut fields = vec![("apdu", Tree::text(name))];
    fields.extend(header.title.map(|title| ("system_title", Tree::Text(hex(&title)))));
    fields.push(("length", Tree::unsigned(header.length)));
    fields.push(("security_control", Tree::Text(hex(&[header.control.0]))));
    fields.push(("invocation_counter", Tree::Unsigned(header.invocation_counter.into())));
    fields.push(("ciphertext_len", Tree::unsigned(header.content(apdu).len())));
    Tree::Map(fields)
}

fn notification_tree(invoke_id: InvokeId, date_time: Option<DateTime>, body: Option<Tree>) -> Tree {
    let date_time = date_time.map_or(Tree::Null, |DateTime(bytes)| Tree::Text(hex(&bytes)));
    let invoke_id = Tree::Text(format!("{:08x}", invoke_id.0));
    let mut fields = vec![("invoke_id", invoke_id), ("date_time", date_time)];
    match body {
        Some(body) => fields.push(("body", body)),
        None => fields.insert(0, ("apdu", Tree::text("data-notification-confirm"))),
    }
    Tree::Map(fields)
}
