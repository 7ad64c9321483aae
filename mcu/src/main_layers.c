/* One inference of zeros, counted layer by layer: edge_lab/devices/firmware/by_layer.py puts the calls of el_mark into a copy of
   the model. */
#include "console.h"
#include "count.h"
#include "model.h"

void el_mark(const char *layer);

void el_mark(const char *layer) {
  const uint64_t ticks = el_count_stop();
  el_text("layer ");
  el_text(layer);
  el_text(" ");
  el_number((int64_t)el_instructions(ticks));
  el_text("\n");
  el_count_start();
}

int main(void) {
  el_count_start();
  el_model_run();
  return 0;
}
