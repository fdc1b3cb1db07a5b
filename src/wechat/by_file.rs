//! Matches the results of a call for several files to the files.

use std::collections::HashMap;

/// The result of each of `file_ids`: by position where every result there has the same id or none, otherwise by id.
pub(super) fn by_file<R>(
    file_ids: &[&str],
    results: Vec<R>,
    id: impl Fn(&R) -> &str,
) -> Vec<Option<R>> {
    let in_order = file_ids.len() == results.len()
        && file_ids
            .iter()
            .zip(&results)
            .all(|(file_id, result)| matches!(id(result), i if i.is_empty() || i == *file_id));
    if in_order {
        return results.into_iter().map(Some).collect();
    }
    let mut by_id: HashMap<String, R> =
        results.into_iter().map(|result| (id(&result).to_owned(), result)).collect();
    file_ids.iter().map(|file_id| by_id.remove(*file_id)).collect()
}

#[cfg(test)]
mod tests {
    use super::by_file;

    #[test]
    fn results_are_matched_to_files_in_any_order_and_without_ids() {
        let matched = |results: &[(&'static str, u32)]| {
            by_file(&["a", "b"], results.to_vec(), |result| result.0)
                .into_iter()
                .map(|result| result.map(|result| result.1))
                .collect::<Vec<_>>()
        };
        assert_eq!(matched(&[("a", 1), ("b", 2)]), [Some(1), Some(2)]);
        assert_eq!(matched(&[("", 1), ("", 2)]), [Some(1), Some(2)]);
        assert_eq!(matched(&[("b", 2), ("a", 1)]), [Some(1), Some(2)]);
        assert_eq!(matched(&[("b", 2)]), [None, Some(2)]);
        assert_eq!(matched(&[("c", 3), ("b", 2)]), [None, Some(2)]);
        assert_eq!(matched(&[]), [None, None]);
    }
}
