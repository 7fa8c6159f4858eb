// mayfly-image: `mayfly image` by itself, for setting a machine up before the
// command line is built.
//
// Layer: image. Wiring only.
#include "image/cli_image.h"

int main(int argc, char** argv) { return mayfly::image::imageMain({argv + 1, argv + argc}); }
