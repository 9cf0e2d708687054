"""The run report and the pictures in it; needs no detectron2 to make a page from run folders."""
