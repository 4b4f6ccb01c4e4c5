//! Names for customers, made of common ones.

const FAMILY: [&str; 12] = ["王", "李", "张", "刘", "陈", "杨", "赵", "黄", "周", "吴", "徐", "孙"];
const GIVEN: [&str; 13] =
    ["伟", "芳", "娜", "敏", "静", "强", "磊", "洋", "艳", "勇", "杰", "丽娟", "建国"];

/// The name of customer `number`; 156 are different.
pub(crate) fn name(number: u32) -> String {
    let index = usize::try_from(number).unwrap_or_default();
    format!("{}{}", FAMILY[index % FAMILY.len()], GIVEN[index % GIVEN.len()])
}
