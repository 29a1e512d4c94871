#pragma once

#include <cstdint>

namespace antiphon {

// Collapses `batch` rows of CTC labels: a label that equals the one of the frame before is dropped, then blanks are.
// Row r is labels[cu_seqlens[r] .. cu_seqlens[r + 1]); prev[r] is the last label of the row's earlier chunk, -1 for
// none, and prev may be null where no row has one.
//
// ids and frames have room for cu_seqlens[batch] numbers, cu_out for batch + 1, last for batch. Returns how many
// ids were written; row r of them is ids[cu_out[r] .. cu_out[r + 1]), and frames are positions within the row.
// cu_seqlens starts at 0 and does not decrease: the caller has checked.
std::int32_t ctc_collapse(const std::int32_t* labels, const std::int32_t* cu_seqlens, std::int32_t batch,
                          std::int32_t blank, const std::int32_t* prev, std::int32_t* ids, std::int32_t* cu_out,
                          std::int32_t* frames, std::int32_t* last);

}  // namespace antiphon
