#include <cstdint>
#include <cstring>
#include <type_traits>

#define ANTIPHON_ISA plain
#define ANTIPHON_NAME "plain"
#define ANTIPHON_VL 4
#include "isa_table.h"
