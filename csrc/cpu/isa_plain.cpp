#include <cstdint>
#include <cstring>

#define ANTIPHON_ISA plain
#define ANTIPHON_VL 4
#include "isa_table.h"
